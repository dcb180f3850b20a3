"""The tensors of a decoder under the names of a Hugging Face family: what all families share.

A family says what its tensors are called (`Names`); which there are, their shapes and how rows are
arranged follow from the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from trivium.engine.hf.layout import Heads, Layout, Tensors, padded, plain, stacked
from trivium.engine.schema import ModelConfig


@dataclass(frozen=True, kw_only=True)
class Names:
    """What a family calls its tensors; `{}` is the number of a layer or of an expert."""

    embedding: str = "model.embed_tokens"
    final_norm: str = "model.norm"
    head: str = "lm_head"
    layer: str = "model.layers.{}"
    # of a layer
    before_attention: str = "input_layernorm"
    after_attention: str = "post_self_attn_layernorm"  # where attention's output is normalised
    before_mlp: str = "post_attention_layernorm"
    after_mlp: str = "post_mlp_layernorm"
    attention: str = "self_attn"
    mlp: str = "mlp"
    # gate, up, down of a feed-forward; gate and up may be one tensor
    gate_up: tuple[str, ...] = ("gate_proj", "up_proj")
    down: str = "down_proj"
    # of a mixture of experts
    router: str = "mlp.gate"
    router_bias: str = "mlp.gate.e_score_correction_bias"
    expert: str = "mlp.experts.{}"
    expert_gate_up: tuple[str, ...] = ("gate_proj", "up_proj")
    expert_down: str = "down_proj"
    shared: str = "mlp.shared_experts"


def tensors(model: ModelConfig, names: Names) -> Tensors:
    """Every tensor of `model` (filled in) by our name, with how it is made of theirs."""
    return dict(_all(model, names))


def _all(model: ModelConfig, names: Names) -> Iterator[tuple[str, Layout]]:
    vocabulary, hidden = model.vocab_size, model.hidden_size
    assert vocabulary is not None
    rows = model.padded_vocab_size
    yield (
        "embedding.word_embeddings.weight",
        padded(f"{names.embedding}.weight", vocabulary, hidden, rows),
    )
    for index, moe in enumerate(model.moe_pattern):
        theirs = names.layer.format(index)
        yield from _layer(model, names, f"decoder.layers.{index}", theirs, moe)
    yield "decoder.final_layernorm.weight", plain(f"{names.final_norm}.weight", hidden)
    if not model.tie_embeddings:
        yield "output_layer.weight", padded(f"{names.head}.weight", vocabulary, hidden, rows)
    for head in range(model.mtp.num_heads):
        theirs = names.layer.format(model.num_layers + head)
        yield from _prediction_head(model, names, f"mtp.layers.{head}", theirs)


def _prediction_head(
    model: ModelConfig, names: Names, ours: str, theirs: str
) -> Iterator[tuple[str, Layout]]:
    """As DeepSeek-V3's files have it: one more layer behind the last, with its own norms."""
    hidden = model.hidden_size
    yield f"{ours}.enorm.weight", plain(f"{theirs}.enorm.weight", hidden)
    yield f"{ours}.hnorm.weight", plain(f"{theirs}.hnorm.weight", hidden)
    yield f"{ours}.eh_proj.weight", plain(f"{theirs}.eh_proj.weight", hidden, 2 * hidden)
    moe = model.moe_pattern[-1]
    yield from _layer(model, names, f"{ours}.transformer_layer", theirs, moe)
    yield f"{ours}.final_layernorm.weight", plain(f"{theirs}.shared_head.norm.weight", hidden)


def _layer(
    model: ModelConfig, names: Names, ours: str, theirs: str, moe: bool
) -> Iterator[tuple[str, Layout]]:
    hidden = model.hidden_size
    norms = {
        "input_layernorm": (names.before_attention, model.norm_placement != "post"),
        "post_attention_layernorm": (names.after_attention, model.norm_placement != "pre"),
        "pre_mlp_layernorm": (names.before_mlp, model.norm_placement != "post"),
        "post_mlp_layernorm": (names.after_mlp, model.norm_placement != "pre"),
    }
    for name, (source, there) in norms.items():
        if there:
            yield f"{ours}.{name}.weight", plain(f"{theirs}.{source}.weight", hidden)
    attention = _latent if model.mla is not None else _grouped
    yield from attention(model, f"{ours}.self_attention", f"{theirs}.{names.attention}")
    if moe:
        yield from _experts(model, names, f"{ours}.mlp", theirs)
        return
    width = model.ffn_hidden_size
    assert width is not None
    source = f"{theirs}.{names.mlp}"
    yield from _feed_forward(f"{ours}.mlp", source, names.gate_up, names.down, hidden, width)


def _feed_forward(
    ours: str, theirs: str, gate_up: tuple[str, ...], down: str, hidden: int, width: int
) -> Iterator[tuple[str, Layout]]:
    each = 2 * width // len(gate_up)
    parts = {f"{theirs}.{part}.weight": each for part in gate_up}
    yield f"{ours}.linear_fc1.weight", stacked(parts, hidden)
    yield f"{ours}.linear_fc2.weight", plain(f"{theirs}.{down}.weight", hidden, width)


def _experts(
    model: ModelConfig, names: Names, ours: str, theirs: str
) -> Iterator[tuple[str, Layout]]:
    moe, hidden = model.moe, model.hidden_size
    assert moe is not None
    width = moe.ffn_hidden_size
    assert width is not None
    router = plain(f"{theirs}.{names.router}.weight", moe.num_experts, hidden)
    yield f"{ours}.router.weight", router
    if moe.balance == "bias":
        bias = plain(f"{theirs}.{names.router_bias}", moe.num_experts)
        yield f"{ours}.router.expert_bias", Layout(bias.pieces, keep_fp32=True)
    for expert in range(moe.num_experts):
        source = f"{theirs}.{names.expert.format(expert)}"
        parts = names.expert_gate_up, names.expert_down
        yield from _feed_forward(f"{ours}.experts.{expert}", source, *parts, hidden, width)
    if moe.shared_ffn_hidden_size is not None:
        source, width = f"{theirs}.{names.shared}", moe.shared_ffn_hidden_size
        parts = names.gate_up, names.down
        yield from _feed_forward(f"{ours}.shared_experts", source, *parts, hidden, width)


def _grouped(model: ModelConfig, ours: str, theirs: str) -> Iterator[tuple[str, Layout]]:
    hidden, dim, groups = model.hidden_size, model.head_dim, model.num_query_groups
    assert dim is not None
    assert groups is not None
    heads = Heads(model.num_attention_heads, groups, dim, model.padded_groups - groups)
    kinds = [("weight", hidden), ("bias", None)] if model.qkv_bias else [("weight", hidden)]
    for kind, columns in kinds:
        query, key, value = (f"{theirs}.{x}_proj.{kind}" for x in "qkv")
        layout = heads.query_key_value(query, key, value, columns)
        yield f"{ours}.linear_qkv.{kind}", layout
    if model.qk_norm:
        whole = model.qk_norm_over == "all"
        widths = (dim * heads.query_heads, dim * groups) if whole else (dim, dim)
        for name, width in zip("qk", widths, strict=True):
            yield f"{ours}.{name}_layernorm.weight", plain(f"{theirs}.{name}_norm.weight", width)
    yield f"{ours}.linear_proj.weight", heads.output(f"{theirs}.o_proj.weight", hidden)


def _latent(model: ModelConfig, ours: str, theirs: str) -> Iterator[tuple[str, Layout]]:
    mla, hidden, heads = model.mla, model.hidden_size, model.num_attention_heads
    assert mla is not None
    rank, latent = mla.q_lora_rank, mla.kv_lora_rank
    query = heads * (mla.qk_nope_head_dim + mla.qk_rope_head_dim)
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {}
    if rank is None:
        shapes["linear_q_proj"] = "q_proj", (query, hidden)
    else:
        shapes["linear_q_down_proj"] = "q_a_proj", (rank, hidden)
        shapes["linear_q_up_proj"] = "q_b_proj", (query, rank)
        shapes["q_layernorm"] = "q_a_layernorm", (rank,)
    up = heads * (mla.qk_nope_head_dim + mla.v_head_dim)
    down = latent + mla.qk_rope_head_dim
    shapes["linear_kv_down_proj"] = "kv_a_proj_with_mqa", (down, hidden)
    shapes["linear_kv_up_proj"] = "kv_b_proj", (up, latent)
    shapes["kv_layernorm"] = "kv_a_layernorm", (latent,)
    shapes["linear_proj"] = "o_proj", (hidden, heads * mla.v_head_dim)
    for name, (source, shape) in shapes.items():
        yield f"{ours}.{name}.weight", plain(f"{theirs}.{source}.weight", *shape)
