"""GLM-4 (0414) and GLM-4 MoE (GLM-4.5, arXiv 2508.06471)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from trivium.engine.hf.decoder import Names
from trivium.engine.hf.families.deepseek import dense_first, experts, groups, write_experts
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



def _read_dense(fields: Fields) -> ModelConfig:
    swiglu(fields)
    known = sizes(fields, 131072, percent=0.5)
    known["rope"] = replace(known["rope"], interleaved=True)
    bias = bool(fields.take("attention_bias", True))
    dims = head_dim(fields) or {"head_dim": 128}
    return ModelConfig(**known, **dims, qkv_bias=bias, norm_placement="sandwich")


def _write_dense(model: ModelConfig) -> dict[str, Any]:
    return written(model) | {
        "attention_bias": model.qkv_bias,
        "partial_rotary_factor": model.rope.percent,
    }


def _fits_dense(model: ModelConfig) -> bool:
    return (
        plain_parts(model)
        and model.normalization == "rmsnorm"
        and not model.norm_zero_centered
        and model.norm_placement == "sandwich"
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
    known = sizes(fields, 131072, percent=0.5)
    fields.expect("norm_topk_prob", True)
    moe, _ = experts(
        fields, known["num_layers"], score="sigmoid", balance="bias", **groups(fields)
    )
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
        | {
            "attention_bias": model.qkv_bias,
            "partial_rotary_factor": model.rope.percent,
            "use_qk_norm": model.qk_norm,
            "n_group": moe.num_groups or 1,
            "topk_group": moe.groups_top_k or 1,
            "norm_topk_prob": True,
            "num_nextn_predict_layers": model.mtp.num_heads,
        }
    )


def _fits_moe(model: ModelConfig) -> bool:
    moe = model.moe
    if moe is None or model.mla is not None or not usual(model) or not dense_first(model):
        return False
    routed = moe.score == "sigmoid" and moe.balance == "bias"
    return routed and model.window is None and model.qk_norm_over == "head"


GLM4 = Family("glm4", "Glm4ForCausalLM", DENSE, _read_dense, _write_dense, _fits_dense)
GLM4_MOE = Family("glm4_moe", "Glm4MoeForCausalLM", Names(), _read_moe, _write_moe, _fits_moe)
