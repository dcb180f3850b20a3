"""Qwen 2 and 2.5 (arXiv 2407.10671), Qwen 3 dense and MoE (arXiv 2505.09388)."""

from __future__ import annotations

from typing import Any

from trivium.engine.hf.decoder import Names
from trivium.engine.hf.families.family import (
    Family,
    head_dim,
    layer_types,
    sizes,
    swiglu,
    usual,
    windows,
    written,
)
from trivium.engine.hf.fields import Fields
from trivium.engine.schema import ModelConfig, MoEConfig


def _windows(fields: Fields, model: dict[str, Any]) -> dict[str, Any]:
    """A window only where `use_sliding_window` says so; older files count the layers before it."""
    used = fields.take("use_sliding_window", False)
    first = fields.take("max_window_layers", 28)
    if not used:
        fields.ignore(("sliding_window", "layer_types"))
        return {}
    if fields.has("layer_types"):
        return windows(fields, model)
    layers = model["num_layers"]
    pattern = tuple(int(index >= first) for index in range(layers))
    size = fields.take("sliding_window", 4096)
    if not any(pattern):
        return {}
    return {"window": size, "window_layers": None if all(pattern) else pattern}


def _write_windows(model: ModelConfig) -> dict[str, Any]:
    return {
        "use_sliding_window": model.window is not None,
        "sliding_window": model.window,
        "layer_types": layer_types(model),
        "max_window_layers": model.num_layers - sum(model.window_pattern),
    }


def _plain(model: ModelConfig) -> bool:
    return (
        usual(model)
        and model.mla is None
        and model.rope.percent == 1
        and model.mtp.num_heads == 0
        and model.qk_norm_over == "head"
    )


def _read_2(fields: Fields) -> ModelConfig:
    swiglu(fields)
    known = sizes(fields, 32768)
    return ModelConfig(**known, **head_dim(fields), **_windows(fields, known), qkv_bias=True)


def _write_2(model: ModelConfig) -> dict[str, Any]:
    return written(model) | _write_windows(model)


def _fits_2(model: ModelConfig) -> bool:
    square = model.head_dim == model.hidden_size // model.num_attention_heads
    biased = model.qkv_bias and not model.qk_norm
    return _plain(model) and model.moe is None and biased and square


def _read_3(fields: Fields) -> ModelConfig:
    swiglu(fields)
    fields.expect("attention_bias", False)
    known = sizes(fields, 32768)
    dims = head_dim(fields) or {"head_dim": 128}
    return ModelConfig(**known, **dims, **_windows(fields, known), qk_norm=True)


def _write_3(model: ModelConfig) -> dict[str, Any]:
    return written(model) | _write_windows(model) | {"attention_bias": False}


def _fits_3(model: ModelConfig) -> bool:
    return _plain(model) and model.moe is None and model.qk_norm and not model.qkv_bias


def _read_3_moe(fields: Fields) -> ModelConfig:
    swiglu(fields)
    fields.expect("attention_bias", False)
    known = sizes(fields, 32768)
    dims = head_dim(fields)
    step = int(fields.take("decoder_sparse_step", 1))
    dense = set(fields.take("mlp_only_layers", []))
    layers = known["num_layers"]
    pattern = tuple(int(i not in dense and (i + 1) % step == 0) for i in range(layers))
    experts = fields.take("num_experts", None) or fields.take("num_local_experts", 128)
    fields.ignore(("num_local_experts", "num_experts"))
    moe = MoEConfig(
        num_experts=int(experts),
        top_k=int(fields.take("num_experts_per_tok", 8)),
        ffn_hidden_size=int(fields.take("moe_intermediate_size", 768)),
        layers=1 if all(pattern) else pattern,
        # a softmax of the chosen is the softmax of all, divided by the sum of the chosen
        pre_softmax=not fields.take("norm_topk_prob", False),
        aux_loss_weight=float(fields.take("router_aux_loss_coef", 0.001)),
    )
    fields.expect("max_window_layers", *range(layers + 1), 28)
    return ModelConfig(
        **known, **dims, **_windows(fields, known), qk_norm=True, moe=moe if any(pattern) else None
    )


def _write_3_moe(model: ModelConfig) -> dict[str, Any]:
    moe = model.moe
    assert moe is not None
    return written(model) | {
        "attention_bias": False,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [i for i, flag in enumerate(model.moe_pattern) if not flag],
        "num_experts": moe.num_experts,
        "num_experts_per_tok": moe.top_k,
        "moe_intermediate_size": moe.ffn_hidden_size,
        "norm_topk_prob": not moe.pre_softmax,
        "router_aux_loss_coef": moe.aux_loss_weight,
        "use_sliding_window": False,
        "sliding_window": None,
    }


def softmax_experts(moe: MoEConfig) -> bool:
    """Softmax scores, and nothing around them."""
    return (
        moe.score == "softmax"
        and moe.balance != "bias"
        and moe.shared_ffn_hidden_size is None
        and moe.num_groups is None
        and moe.scaling_factor in (None, 1.0)
    )


def _fits_3_moe(model: ModelConfig) -> bool:
    if model.moe is None or not softmax_experts(model.moe):
        return False
    return _plain(model) and model.qk_norm and not model.qkv_bias and model.window is None


QWEN2 = Family("qwen2", "Qwen2ForCausalLM", Names(), _read_2, _write_2, _fits_2)
QWEN3 = Family("qwen3", "Qwen3ForCausalLM", Names(), _read_3, _write_3, _fits_3)
QWEN3_MOE = Family(
    "qwen3_moe", "Qwen3MoeForCausalLM", Names(), _read_3_moe, _write_3_moe, _fits_3_moe
)
