"""Exact parameter counts of a model, whole, per token and per rank, without building it.

One table says which tensors a part of the model has, their shape and the axes that split them;
every count is a sum over it. The shapes are those of megatron-core's GPTModel as `engine.model`
builds it; a test holds the two together. Expects a filled-in ModelConfig with its vocabulary size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from trivium.engine.layout import ParallelLayout
from trivium.engine.schema import MLAConfig, ModelConfig, MoEConfig


@dataclass(frozen=True)
class Tensor:
    """A parameter: shape of the whole, axes that split it, and the share that one token uses.

    A stack of experts is one tensor [expert, rows, columns].
    """

    name: str
    shape: tuple[int, ...]
    axes: tuple[str, ...] = ()
    used: Fraction = Fraction(1)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def size_on(self, layout: ParallelLayout) -> int:
        """Elements of the part that one rank holds."""
        return self.size // math.prod(layout.size(axis) for axis in self.axes)


class Counts(NamedTuple):
    """Parameters of a model: all of them, and those that one training token passes through."""

    total: int
    active: int


def count(model: ModelConfig) -> Counts:
    """Total and active parameters, each tensor once whatever the layout.

    `active` leaves out the experts that a token is not sent to; MTP heads count, as in training.
    """
    tensors = list(model_tensors(model))
    active = sum(tensor.size * tensor.used for tensor in tensors)
    assert isinstance(active, int) or active.denominator == 1
    return Counts(sum(tensor.size for tensor in tensors), int(active))


def parameters_of_rank(model: ModelConfig, layout: ParallelLayout, rank: int) -> int:
    """Parameters that live on `rank`, copies (embedding at both ends of a pipeline) included."""
    return parameters_of_stage(model, layout, layout.coordinates(rank).pp)


def parameters_of_stage(model: ModelConfig, layout: ParallelLayout, pp_rank: int) -> int:
    """Parameters on each rank of a pipeline stage: they all hold as many."""
    return sum(
        tensor.size_on(layout)
        for chunk in range(layout.vpp)
        for tensor in chunk_tensors(model, layout, pp_rank, chunk)
    )


def model_tensors(model: ModelConfig) -> Iterator[Tensor]:
    """Every tensor of the model, once."""
    return chunk_tensors(model, ParallelLayout(world_size=1), 0, 0)


def chunk_tensors(
    model: ModelConfig, layout: ParallelLayout, pp_rank: int, chunk: int
) -> Iterator[Tensor]:
    """Every tensor that is split among, or copied to, the ranks of one pipeline chunk."""
    first, last = layout.is_first(pp_rank, chunk), layout.is_last(pp_rank, chunk)
    heads = model.mtp.num_heads
    if first or (last and heads):  # MTP heads embed the tokens further on
        yield from _embedding(model)
    pattern = model.moe_pattern
    for layer in layout.layers(pp_rank, chunk, model.num_layers):
        yield from layer_tensors(model, pattern[layer])
    if last:
        for _ in range(heads):
            yield from _mtp_head(model)
        yield from _norm("final_layernorm", model, model.hidden_size)
        if not (model.tie_embeddings and (first or heads)):  # else the embedding is in this chunk
            yield Tensor("output_layer", (model.padded_vocab_size, model.hidden_size), ("tp",))


def layer_tensors(model: ModelConfig, moe: bool) -> Iterator[Tensor]:
    """One decoder layer: attention and feed-forward, norms before them, behind them or both."""
    before, behind = model.norm_placement != "post", model.norm_placement != "pre"
    norms = ["input_layernorm", "pre_mlp_layernorm"] * before
    norms += ["post_attention_layernorm", "post_mlp_layernorm"] * behind
    for norm in norms:
        yield from _norm(norm, model, model.hidden_size)
    yield from _attention(model) if model.mla is None else _latent_attention(model, model.mla)
    if moe and model.moe is not None:
        yield from _experts(model, model.moe)
    else:
        assert model.ffn_hidden_size is not None
        yield from _feed_forward("mlp", model, model.ffn_hidden_size)


def _embedding(model: ModelConfig) -> Iterator[Tensor]:
    yield Tensor("word_embeddings", (model.padded_vocab_size, model.hidden_size), ("tp",))
    if model.position == "learned":
        assert model.max_position is not None
        yield Tensor("position_embeddings", (model.max_position, model.hidden_size))


def _norm(name: str, model: ModelConfig, size: int) -> Iterator[Tensor]:
    yield Tensor(f"{name}.weight", (size,))
    if model.normalization == "layernorm":
        yield Tensor(f"{name}.bias", (size,))


def _linear(
    name: str, rows: int, columns: int, *, split: str, bias: bool = False
) -> Iterator[Tensor]:
    """A linear layer [rows, columns] whose `split` ("rows", "columns", "none") is over tp.

    A bias is as long as there are rows, and is split where they are.
    """
    yield Tensor(f"{name}.weight", (rows, columns), () if split == "none" else ("tp",))
    if bias:
        yield Tensor(f"{name}.bias", (rows,), ("tp",) if split == "rows" else ())


def _attention(model: ModelConfig) -> Iterator[Tensor]:
    heads, groups, dim = model.padded_heads, model.padded_groups, model.head_dim
    assert dim is not None
    hidden, bias = model.hidden_size, model.linear_bias
    qkv = (heads + 2 * groups) * dim
    yield from _linear("qkv", qkv, hidden, split="rows", bias=bias or model.qkv_bias)
    if model.qk_norm and model.qk_norm_over == "all":
        yield Tensor("q_layernorm.weight", (heads * dim,), ("tp",))
        yield Tensor("k_layernorm.weight", (groups * dim,), ("tp",))
    elif model.qk_norm:
        yield from _norm("q_layernorm", model, dim)
        yield from _norm("k_layernorm", model, dim)
    yield from _linear("proj", hidden, heads * dim, split="columns", bias=bias)


def _latent_attention(model: ModelConfig, mla: MLAConfig) -> Iterator[Tensor]:
    """MLA: down projections are whole on every rank, up projections split by head."""
    hidden, heads = model.hidden_size, model.num_attention_heads
    query = heads * (mla.qk_nope_head_dim + mla.qk_rope_head_dim)
    if mla.q_lora_rank is None:
        yield from _linear("q", query, hidden, split="rows")
    else:
        yield from _linear("q_down", mla.q_lora_rank, hidden, split="none")
        yield from _norm("q_layernorm", model, mla.q_lora_rank)
        yield from _linear("q_up", query, mla.q_lora_rank, split="rows")
    rank, up = mla.kv_lora_rank, heads * (mla.qk_nope_head_dim + mla.v_head_dim)
    yield from _linear("kv_down", rank + mla.qk_rope_head_dim, hidden, split="none")
    yield from _norm("kv_layernorm", model, rank)
    yield from _linear("kv_up", up, rank, split="rows")
    yield from _linear(
        "proj", hidden, heads * mla.v_head_dim, split="columns", bias=model.linear_bias
    )


def _feed_forward(name: str, model: ModelConfig, width: int) -> Iterator[Tensor]:
    inner, hidden, bias = width * (2 if model.gated else 1), model.hidden_size, model.linear_bias
    yield from _linear(f"{name}.fc1", inner, hidden, split="rows", bias=bias)
    yield from _linear(f"{name}.fc2", hidden, width, split="columns", bias=bias)


def _experts(model: ModelConfig, moe: MoEConfig) -> Iterator[Tensor]:
    """Router, experts, shared experts. The bias of aux-loss-free balancing is no parameter."""
    hidden, width, experts = model.hidden_size, moe.ffn_hidden_size, moe.num_experts
    assert width is not None
    inner = width * (2 if model.gated else 1)
    axes, used = ("ep", "etp"), Fraction(moe.top_k, experts)
    yield Tensor("router", (experts, hidden))
    yield Tensor("experts.fc1", (experts, inner, hidden), axes, used)
    yield Tensor("experts.fc2", (experts, hidden, width), axes, used)
    if moe.shared_ffn_hidden_size is not None:
        yield from _feed_forward("shared_experts", model, moe.shared_ffn_hidden_size)
        if moe.shared_gate:
            yield Tensor("shared_experts.gate", (1, hidden))


def _mtp_head(model: ModelConfig) -> Iterator[Tensor]:
    """Two norms and their joint projection, a layer like the decoder's last, a norm of its own."""
    hidden = model.hidden_size
    yield from _norm("enorm", model, hidden)
    yield from _norm("hnorm", model, hidden)
    yield from _linear("eh_proj", hidden, 2 * hidden, split="rows")
    yield from layer_tensors(model, model.moe_pattern[-1])
    yield from _norm("final_layernorm", model, hidden)
