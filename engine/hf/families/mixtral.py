"""Mixtral (arXiv 2401.04088): Mistral with experts in every layer."""

from __future__ import annotations

from typing import Any

from trivium.engine.hf.decoder import Names
from trivium.engine.hf.families.family import Family, head_dim, sizes, swiglu, usual, written
from trivium.engine.hf.families.qwen import softmax_experts
from trivium.engine.hf.fields import Fields
from trivium.engine.schema import ModelConfig, MoEConfig

NAMES = Names(
    router="block_sparse_moe.gate",
    expert="block_sparse_moe.experts.{}",
    expert_gate_up=("w1", "w3"),
    expert_down="w2",
)


def _read(fields: Fields) -> ModelConfig:
    swiglu(fields)
    known = sizes(fields, 131072, theta=1e6, epsilon=1e-5)
    fields.expect("router_jitter_noise", 0, 0.0)
    moe = MoEConfig(
        num_experts=int(fields.take("num_local_experts", 8)),
        top_k=int(fields.take("num_experts_per_tok", 2)),
        ffn_hidden_size=known["ffn_hidden_size"],
        aux_loss_weight=float(fields.take("router_aux_loss_coef", 0.001)),
    )
    window = fields.take("sliding_window", None)
    return ModelConfig(**known, **head_dim(fields), window=window, moe=moe)


def _write(model: ModelConfig) -> dict[str, Any]:
    moe = model.moe
    assert moe is not None
    return written(model) | {
        "intermediate_size": moe.ffn_hidden_size,
        "num_local_experts": moe.num_experts,
        "num_experts_per_tok": moe.top_k,
        "router_aux_loss_coef": moe.aux_loss_weight,
        "router_jitter_noise": 0.0,
        "sliding_window": model.window,
    }


def _fits(model: ModelConfig) -> bool:
    if model.moe is None or not softmax_experts(model.moe) or model.moe.pre_softmax:
        return False
    windows = model.window is None or all(model.window_pattern)
    attention = model.mla is None and not model.qk_norm and not model.qkv_bias
    whole = all(model.moe_pattern) and model.rope.percent == 1 and model.mtp.num_heads == 0
    return usual(model) and attention and whole and windows


MIXTRAL = Family("mixtral", "MixtralForCausalLM", NAMES, _read, _write, _fits)
