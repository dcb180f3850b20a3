"""What values a run may have: a table of ranges, then the rules between keys of one run.

What depends on how many ranks there are (divisibility by tp, pp, ep) is in `layout.py`. Every
message says the value, the limit and the remedy, by dotted key.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from trivium.data_pipeline.errors import InputError
from trivium.engine.schema import ModelConfig, MoEConfig, RunConfig

TRAINED_TOKENIZERS = ("bpe", "sentencepiece-bpe", "sentencepiece-unigram")


@dataclass(frozen=True)
class Range:
    """An interval; `above` and `below` are bounds that are themselves excluded."""

    at_least: float = -math.inf
    at_most: float = math.inf
    above: float = -math.inf
    below: float = math.inf

    def __contains__(self, value: float) -> bool:
        return self.above < value < self.below and self.at_least <= value <= self.at_most

    def __str__(self) -> str:
        bounds = (
            ("at least", self.at_least),
            ("above", self.above),
            ("at most", self.at_most),
            ("below", self.below),
        )
        return " and ".join(f"{word} {bound:g}" for word, bound in bounds if math.isfinite(bound))


RANGES: tuple[tuple[Range, str], ...] = (
    (
        Range(at_least=1),
        """
        run.log_every
        parallel.tp parallel.pp parallel.vpp parallel.cp parallel.ep parallel.etp
        train.steps train.global_batch train.micro_batch train.max_bad_steps
        data.sequence_length data.vocab_size
        model.num_layers model.hidden_size model.num_attention_heads model.num_query_groups
        model.head_dim model.ffn_hidden_size model.vocab_size model.vocab_multiple
        model.max_position model.window model.group_multiple model.rope.original_max_position
        model.moe.num_experts model.moe.top_k model.moe.ffn_hidden_size
        model.moe.shared_ffn_hidden_size model.moe.num_groups model.moe.groups_top_k
        model.mla.q_lora_rank model.mla.kv_lora_rank model.mla.qk_nope_head_dim
        model.mla.qk_rope_head_dim model.mla.v_head_dim
        schedule.decay_steps sample.max_new_tokens
        """,
    ),
    (
        Range(at_least=0),
        """
        seed train.z_loss train.manual_gc_every
        model.moe.aux_loss_weight model.moe.bias_update_rate model.moe.z_loss_weight
        model.mtp.num_heads model.mtp.loss_weight
        optimizer.weight_decay optimizer.clip_grad
        schedule.warmup_steps schedule.min_lr
        checkpoint.every checkpoint.keep validation.every validation.batches
        sample.every sample.temperature sample.top_k
        """,
    ),
    (
        Range(above=0),
        """
        parallel.timeout_minutes train.loss_scale
        model.norm_epsilon model.init_std model.moe.scaling_factor model.attention_scale
        model.attention_softcap model.logit_softcap model.embedding_scale
        model.rope.theta model.rope.window_theta
        model.rope.low_freq_factor model.rope.high_freq_factor
        model.rope.beta_fast model.rope.beta_slow
        optimizer.lr optimizer.eps
        """,
    ),
    (
        Range(at_least=0, below=1),
        "model.attention_dropout model.hidden_dropout optimizer.beta1 optimizer.beta2",
    ),
    (Range(above=0, at_most=1), "model.rope.percent sample.top_p"),
    (Range(at_least=0, at_most=1), "schedule.stable_fraction"),
    (Range(at_least=1), "model.rope.factor"),
)


def check_ranges(config: RunConfig) -> None:
    """Raise InputError for the first number outside its range; None and absent sections pass."""
    for bounds, keys in RANGES:
        for key in keys.split():
            value = _value(config, key)
            if value is not None and value not in bounds:
                low = value <= max(bounds.at_least, bounds.above)
                raise InputError(
                    f"{key}={value}: must be {bounds}; {'raise' if low else 'lower'} it"
                )


def _value(config: Any, key: str) -> Any:
    for name in key.split("."):
        if config is None:
            return None
        config = getattr(config, name)
    return config


def check_sections(config: RunConfig) -> None:
    """Raise InputError for the first pair of values that contradict each other."""
    rules = (
        _parallel,
        _train,
        _kernels,
        _recompute,
        _data,
        _schedule,
        _attention,
        _variations,
        _positions,
        _moe,
        _heads,
    )
    for rule in rules:
        for problem in rule(config):
            raise InputError(problem)


def _parallel(config: RunConfig) -> Iterator[str]:
    parallel = config.parallel
    if parallel.overlap_param_gather and not (parallel.zero and parallel.overlap_grad_reduce):
        yield (
            "parallel.overlap_param_gather=true: gathers what ZeRO-1 has sharded, after overlapped "
            "reduction; set parallel.zero=1 parallel.overlap_grad_reduce=true, or switch it off"
        )


def _train(config: RunConfig) -> Iterator[str]:
    train = config.train
    if train.loss_scale is not None and train.dtype != "fp16":
        yield (
            f"train.loss_scale={train.loss_scale:g}: only fp16 scales its loss and train.dtype is "
            f"{train.dtype}; set train.loss_scale=null"
        )
    if train.ramp_up is None:
        return
    start, increment, _ = train.ramp_up
    if min(train.ramp_up) < 1 or start >= train.global_batch:
        yield (
            f"train.ramp_up={list(train.ramp_up)}: must be [start, increment, sequences], each at "
            f"least 1 and start below train.global_batch={train.global_batch}; lower start, or set "
            "train.ramp_up=null"
        )
    elif (train.global_batch - start) % increment:
        yield (
            f"train.ramp_up: {start} plus steps of {increment} never equals "
            f"train.global_batch={train.global_batch}; choose an increment that divides "
            f"{train.global_batch - start}"
        )


def _kernels(config: RunConfig) -> Iterator[str]:
    kernels, parallel = config.kernels, config.parallel
    engine = kernels.backend in ("auto", "transformer_engine")
    if kernels.fp8 != "none" and not engine:
        yield (
            f"kernels.fp8={kernels.fp8}: is Transformer Engine's and kernels.backend is "
            f"{kernels.backend}; set kernels.backend=transformer_engine or kernels.fp8=none"
        )
    if kernels.fp8 != "none" and config.train.dtype != "bf16":
        yield (
            f"kernels.fp8={kernels.fp8}: needs bf16 around it and train.dtype is "
            f"{config.train.dtype}; set train.dtype=bf16 or kernels.fp8=none"
        )
    if parallel.tp_overlap and (parallel.tp == 1 or parallel.sp is False or not engine):
        yield (
            "parallel.tp_overlap=true: is Transformer Engine's overlap of sequence parallelism; "
            "set parallel.tp above 1, parallel.sp=true and kernels.backend=transformer_engine, or "
            "switch it off"
        )


def _recompute(config: RunConfig) -> Iterator[str]:
    if config.train.recompute == "selective" and config.model.linear_bias:
        yield (
            "train.recompute=selective: megatron-core's recomputed feed-forward does not return "
            "from backward when it has biases; set train.recompute=full or model.linear_bias=false"
        )


def _data(config: RunConfig) -> Iterator[str]:
    data = config.data
    if (data.corpus is None) == (data.shards is None):
        given = "neither is set" if data.corpus is None else "both are set"
        yield (
            f"data.corpus, data.shards: {given}; set exactly one, such as data.corpus=python-docs"
        )
    if data.corpus == () or data.shards == {}:
        yield "data: an empty list of sources; name at least one, such as data.corpus=python-docs"
    for prefix, weight in (data.shards or {}).items():
        if weight <= 0:
            yield f"data.shards: weight {weight:g} of {prefix} must be above 0; raise it or drop it"
    trained = data.tokenizer in TRAINED_TOKENIZERS
    if data.shards is not None and trained and config.model.vocab_size is None:
        yield (
            f"data.tokenizer={data.tokenizer}: shards are tokenized already, so none is trained; "
            "name the tokenizer they were made with, or set model.vocab_size"
        )
    if data.corpus is not None and trained and data.vocab_size < 300:
        yield (
            f"data.vocab_size={data.vocab_size}: must be at least 300 (256 bytes, control tokens, "
            "some merges); raise it"
        )
    if min(data.split) < 0 or data.split[0] == 0 or abs(sum(data.split) - 1) > 1e-6:
        yield (
            f"data.split={list(data.split)}: must be shares for train, validation and test that "
            "add up to 1, train above 0; try data.split=[0.98,0.01,0.01]"
        )
    if config.validation.batches and data.split[1] == 0:
        yield (
            f"data.split={list(data.split)}: leaves no document for validation; give it a share, "
            "or set validation.batches=0"
        )


def _schedule(config: RunConfig) -> Iterator[str]:
    schedule, lr = config.schedule, config.optimizer.lr
    if schedule.min_lr > lr:
        yield (
            f"schedule.min_lr={schedule.min_lr:g}: must be at most optimizer.lr={lr:g}; lower it "
            "or raise optimizer.lr"
        )


def _attention(config: RunConfig) -> Iterator[str]:
    model = config.model
    heads, groups = model.num_attention_heads, model.num_query_groups or model.num_attention_heads
    if heads % groups:
        yield (
            f"model.num_query_groups={groups}: must divide model.num_attention_heads={heads}; "
            f"use {nearest_divisors(heads, groups)}"
        )
    if model.mla is None:
        if model.head_dim is None and model.hidden_size % heads:
            yield (
                f"model.hidden_size={model.hidden_size}: must be a multiple of "
                f"model.num_attention_heads={heads} unless model.head_dim is set; use "
                f"{nearest_multiples(heads, model.hidden_size)} or set model.head_dim"
            )
        return
    head_dim = model.mla.qk_nope_head_dim + model.mla.qk_rope_head_dim
    if groups != heads:
        yield f"model.num_query_groups={groups}: latent attention has no groups; set it to null"
    if model.head_dim not in (None, head_dim):
        yield f"model.head_dim={model.head_dim}: model.mla sets it ({head_dim}); set it to null"
    if model.qkv_bias or model.qk_norm:
        yield (
            "model.qkv_bias, model.qk_norm: not part of latent attention, which always normalises "
            "its latents; set both to false"
        )


def _variations(config: RunConfig) -> Iterator[str]:
    """What some families of models have, and what it does not go with."""
    model, layers = config.model, config.model.window_layers
    if layers is not None and (len(layers) != model.num_layers or not set(layers) <= {0, 1}):
        yield (
            f"model.window_layers: {len(layers)} entries for {model.num_layers} layers; write one "
            "0 or 1 for each of model.num_layers"
        )
    if layers is not None and model.window is None:
        yield "model.window_layers: there is no window; set model.window, or drop it"
    if layers is not None and model.mtp.num_heads:
        yield (
            "model.window_layers: does not say what MTP heads see; set model.mtp.num_heads=0, or "
            "give all layers the window"
        )
    if model.rope.window_theta is not None:
        rotates = model.position == "rope" and model.rope.scaling != "yarn"
        if model.window is None or model.mla is not None or not rotates:
            yield (
                "model.rope.window_theta: is of layers with a window, without latent attention, "
                "and its rope has no magnitude as yarn does; set model.window, model.position=rope "
                "and another model.rope.scaling, or drop it"
            )
    if model.mla is not None and (model.group_multiple > 1 or model.attention_scale is not None):
        yield (
            "model.group_multiple, model.attention_scale: latent attention has no groups and a "
            "scale of its own; drop them"
        )
    if model.qk_norm_over == "all" and (model.group_multiple > 1 or not model.qk_norm):
        yield (
            "model.qk_norm_over=all: is of model.qk_norm=true, and zeros that pad heads would "
            "change it; set model.qk_norm=true model.group_multiple=1, and a parallel.tp that "
            "divides model.num_query_groups"
        )
    if model.qk_norm_over == "all" and model.normalization != "rmsnorm":
        yield "model.qk_norm_over=all: only as RMSNorm; set model.normalization=rmsnorm"
    if model.attention_softcap is not None and config.parallel.cp > 1:
        yield (
            f"parallel.cp={config.parallel.cp}: rows with capped scores are not split; set "
            "parallel.cp=1 or model.attention_softcap=null"
        )
    if model.logit_softcap is not None and config.train.head == "chunked":
        yield (
            "train.head=chunked: takes logits as they are, and model.logit_softcap caps them; set "
            "train.head=logits"
        )


def _positions(config: RunConfig) -> Iterator[str]:
    model, rope, length = config.model, config.model.rope, config.data.sequence_length
    if model.max_position is not None and model.max_position < length:
        yield (
            f"data.sequence_length={length}: must be at most model.max_position="
            f"{model.max_position}; shorten it or raise model.max_position"
        )
    if model.mla is not None:
        if model.position != "rope":
            yield f"model.position={model.position}: latent attention rotates; set it to rope"
        if rope.scaling in ("linear", "llama3") or rope.interleaved or rope.percent != 1:
            yield (
                "model.rope: latent attention takes scaling none or yarn, interleaved=false and "
                "percent=1; set these"
            )
        rotary, key = model.mla.qk_rope_head_dim, "model.mla.qk_rope_head_dim"
    else:
        head_dim = model.head_dim or model.hidden_size // model.num_attention_heads
        rotary, key = int(head_dim * rope.percent), "head_dim x model.rope.percent"
    if model.position == "rope" and (rotary % 2 or rotary < 2):
        even = rotary + rotary % 2 or 2
        yield f"{key}={rotary}: rotation needs an even number of dims; use {even}"


def _moe(config: RunConfig) -> Iterator[str]:
    model, moe = config.model, config.model.moe
    if moe is None:
        return
    if moe.top_k > moe.num_experts:
        yield (
            f"model.moe.top_k={moe.top_k}: must be at most model.moe.num_experts="
            f"{moe.num_experts}; lower it"
        )
    if moe.top_k == 1 and moe.score == "softmax" and not moe.pre_softmax:
        yield (
            "model.moe.top_k=1: a softmax over the one chosen expert is constant and teaches the "
            "router nothing; set model.moe.pre_softmax=true or model.moe.score=sigmoid"
        )
    if moe.balance == "bias" and moe.score != "sigmoid":
        yield (
            f"model.moe.balance=bias: works with sigmoid scores, not {moe.score}; set "
            "model.moe.score=sigmoid"
        )
    if moe.shared_gate and moe.shared_ffn_hidden_size is None:
        yield (
            "model.moe.shared_gate=true: there are no shared experts to gate; set "
            "model.moe.shared_ffn_hidden_size or switch it off"
        )
    if model.linear_bias:
        yield "model.linear_bias=true: experts have no biases; set model.linear_bias=false"
    yield from _moe_layers(model, moe)
    yield from _moe_groups(moe)


def _moe_layers(model: ModelConfig, moe: MoEConfig) -> Iterator[str]:
    if isinstance(moe.layers, int):
        if moe.layers < 1:
            yield f"model.moe.layers={moe.layers}: every n-th layer, n at least 1; set 1 for all"
    elif len(moe.layers) != model.num_layers or not set(moe.layers) <= {0, 1}:
        yield (
            f"model.moe.layers: {len(moe.layers)} entries for {model.num_layers} layers; write one "
            "0 or 1 for each of model.num_layers"
        )
    elif not any(moe.layers):
        yield "model.moe.layers: no layer is MoE; mark at least one with 1, or set model.moe=null"


def _moe_groups(moe: MoEConfig) -> Iterator[str]:
    groups, chosen, experts = moe.num_groups, moe.groups_top_k, moe.num_experts
    if groups is None and chosen is None:
        return
    if groups is None or chosen is None:
        yield "model.moe.num_groups, model.moe.groups_top_k: set both, or neither"
    elif experts % groups:
        yield (
            f"model.moe.num_groups={groups}: must divide model.moe.num_experts={experts}; use "
            f"{nearest_divisors(experts, groups)}"
        )
    elif chosen > min(groups, moe.top_k):
        yield (
            f"model.moe.groups_top_k={chosen}: must be at most model.moe.num_groups={groups} and "
            f"model.moe.top_k={moe.top_k}; lower it"
        )
    elif moe.top_k > chosen * (experts // groups):
        yield (
            f"model.moe.top_k={moe.top_k}: {chosen} groups of {experts // groups} experts do not "
            "hold that many; raise model.moe.groups_top_k"
        )


def _heads(config: RunConfig) -> Iterator[str]:
    heads, length = config.model.mtp.num_heads, config.data.sequence_length
    if heads and config.model.position == "learned":
        yield (
            "model.position=learned: MTP heads need positions that are not embedded; set "
            "model.position=rope or model.mtp.num_heads=0"
        )
    if heads >= length:
        yield (
            f"model.mtp.num_heads={heads}: must be below data.sequence_length={length}, or no "
            "position has a target; lower it"
        )


def nearest_divisors(number: int, value: int) -> str:
    """The divisors of `number` next to `value`, below and above, in words."""
    divisors = [d for d in range(1, number + 1) if number % d == 0]
    below = [d for d in divisors if d <= value][-1:]
    above = [d for d in divisors if d > value][:1]
    return " or ".join(map(str, below + above))


def nearest_multiples(unit: int, value: int) -> str:
    """The positive multiples of `unit` next to `value`, below and above, in words."""
    below = value // unit * unit
    return " or ".join(str(number) for number in (below, below + unit) if number > 0)
