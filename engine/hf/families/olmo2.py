"""OLMo 2 (arXiv 2501.00656): norms behind attention and feed-forward, and over all heads of q
and of k."""

from __future__ import annotations

from typing import Any

from trivium.engine.hf.decoder import Names
from trivium.engine.hf.families.family import Family, head_dim, plain_parts, sizes, swiglu, written
from trivium.engine.hf.fields import Fields
from trivium.engine.schema import ModelConfig

NAMES = Names(after_attention="post_attention_layernorm", after_mlp="post_feedforward_layernorm")


def _read(fields: Fields) -> ModelConfig:
    swiglu(fields)
    fields.expect("attention_bias", False)
    return ModelConfig(
        **sizes(fields, 2048, epsilon=1e-5),
        **head_dim(fields),
        qk_norm=True,
        qk_norm_over="all",
        norm_placement="post",
    )


def _write(model: ModelConfig) -> dict[str, Any]:
    made = written(model) | {"attention_bias": False}
    del made["head_dim"]  # the family's own is hidden_size / num_attention_heads
    return made


def _fits(model: ModelConfig) -> bool:
    return (
        plain_parts(model)
        and model.normalization == "rmsnorm"
        and not model.norm_zero_centered
        and model.norm_placement == "post"
        and model.activation == "swiglu"
        and model.qk_norm
        and model.qk_norm_over == "all"
        and model.head_dim == model.hidden_size // model.num_attention_heads
        and not (model.mla or model.moe or model.window or model.qkv_bias)
        and not model.rope.interleaved
        and model.rope.percent == 1
        and model.mtp.num_heads == 0
    )


OLMO2 = Family("olmo2", "Olmo2ForCausalLM", NAMES, _read, _write, _fits)
