"""GLM-4 (arXiv 2406.12793), its sandwiched successor of 0414, and GLM-4 MoE (GLM-4.5, arXiv
2508.06471)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from trivium.engine.hf.decoder import Names
from trivium.engine.hf.families.deepseek import (
    dense_first,
    experts,
    grouped_by,
    groups,
    write_experts,
    written_groups,
)
from trivium.engine.hf.families.family import (
    Family,
    head_dim,
    plain_parts,
    sizes,
    swiglu,
    usual,
    written,
)
from trivium.engine.hf.fields import Fields
from trivium.engine.schema import ModelConfig, MTPConfig

DENSE = Names(gate_up=("gate_up_proj",))
EPSILON = 1.5625e-7  # of the dense ones, where a file does not say


def _read_pre(fields: Fields) -> ModelConfig:
    return replace(_read_dense(fields), norm_placement="pre")


def _read_dense(fields: Fields) -> ModelConfig:
    swiglu(fields)
    known = sizes(fields, 131072, percent=0.5, epsilon=EPSILON)
    known["rope"] = replace(known["rope"], interleaved=True)
    bias = bool(fields.take("attention_bias", True))
    dims = head_dim(fields) or {"head_dim": 128}
    return ModelConfig(**known, **dims, qkv_bias=bias, norm_placement="sandwich")


def _write_dense(model: ModelConfig) -> dict[str, Any]:
    return written(model) | {
        "attention_bias": model.qkv_bias,
        "partial_rotary_factor": model.rope.percent,
    }


def _fits_pre(model: ModelConfig) -> bool:
    return model.norm_placement == "pre" and _fits(model)


def _fits_dense(model: ModelConfig) -> bool:
    return model.norm_placement == "sandwich" and _fits(model)


def _fits(model: ModelConfig) -> bool:
    return (
        plain_parts(model)
        and model.normalization == "rmsnorm"
        and not model.norm_zero_centered
        and model.activation == "swiglu"
        and model.rope.interleaved
        and model.mla is None
        and model.moe is None
        and not model.qk_norm
        and model.window is None
        and model.mtp.num_heads == 0
    )


def _read_moe(fields: Fields) -> ModelConfig:
    swiglu(fields)
    known = sizes(fields, 131072, percent=0.5, epsilon=1e-5)
    fields.expect("norm_topk_prob", True)
    kind: dict[str, Any] = {"score": "sigmoid", "balance": "bias", **groups(fields, best=2)}
    moe, _ = experts(fields, known["num_layers"], dense=1, **kind)
    return ModelConfig(
        **known,
        **head_dim(fields),
        qkv_bias=bool(fields.take("attention_bias", False)),
        qk_norm=bool(fields.take("use_qk_norm", False)),
        moe=moe,
        mtp=MTPConfig(num_heads=int(fields.take("num_nextn_predict_layers", 0))),
    )


def _write_moe(model: ModelConfig) -> dict[str, Any]:
    moe = model.moe
    assert moe is not None
    return (
        written(model)
        | write_experts(model)
        | written_groups(moe)
        | {
            "attention_bias": model.qkv_bias,
            "partial_rotary_factor": model.rope.percent,
            "use_qk_norm": model.qk_norm,
            "norm_topk_prob": True,
            "num_nextn_predict_layers": model.mtp.num_heads,
        }
    )


def _fits_moe(model: ModelConfig) -> bool:
    moe = model.moe
    if moe is None or model.mla is not None or not usual(model) or not dense_first(model):
        return False
    routed = moe.score == "sigmoid" and moe.balance == "bias" and grouped_by(moe, 2)
    return routed and model.window is None and model.qk_norm_over == "head"


GLM = Family("glm", "GlmForCausalLM", DENSE, _read_pre, _write_dense, _fits_pre)
GLM4 = Family("glm4", "Glm4ForCausalLM", DENSE, _read_dense, _write_dense, _fits_dense)
GLM4_MOE = Family("glm4_moe", "Glm4MoeForCausalLM", Names(), _read_moe, _write_moe, _fits_moe)
