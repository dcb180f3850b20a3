"""DeepSeek-V2 (arXiv 2405.04434) and V3 (arXiv 2412.19437): latent attention, shared and routed
experts behind a few dense layers; V3 with sigmoid scores, a bias, and a prediction head in its
files."""

from __future__ import annotations

from typing import Any

from trivium.engine.hf.decoder import Names
from trivium.engine.hf.families.family import Family, sizes, swiglu, usual, written
from trivium.engine.hf.fields import Fields
from trivium.engine.schema import MLAConfig, ModelConfig, MoEConfig, MTPConfig

LATENT_EPSILON = 1e-6


def _latent(fields: Fields) -> MLAConfig:
    fields.expect("attention_bias", False)
    rank = fields.nullable("q_lora_rank", 1536)
    made = MLAConfig(
        q_lora_rank=None if rank is None else int(rank),
        kv_lora_rank=int(fields.take("kv_lora_rank", 512)),
        qk_nope_head_dim=int(fields.take("qk_nope_head_dim", 128)),
        qk_rope_head_dim=int(fields.take("qk_rope_head_dim", 64)),
        v_head_dim=int(fields.take("v_head_dim", 128)),
    )
    fields.ignore(("head_dim", "qk_head_dim"))  # sums of the above
    return made


def experts(
    fields: Fields, layers: int, dense: int = 0, scaling: float = 1.0, **more: Any
) -> tuple[MoEConfig, tuple[int, ...]]:
    """Routed and shared experts behind `first_k_dense_replace` dense layers, and their pattern.

    dense, scaling (of the experts' weights): where the file does not say.
    """
    first = int(fields.take("first_k_dense_replace", dense))
    pattern = tuple(int(index >= first) for index in range(layers))
    width = int(fields.take("moe_intermediate_size"))
    shared = int(fields.take("n_shared_experts", 0))
    fields.expect("moe_layer_freq", 1)
    fields.expect("ep_size", 1)
    fields.ignore(("seq_aux",))
    made = MoEConfig(
        num_experts=int(fields.take("n_routed_experts")),
        top_k=int(fields.take("num_experts_per_tok")),
        ffn_hidden_size=width,
        layers=1 if all(pattern) else pattern,
        shared_ffn_hidden_size=shared * width or None,
        scaling_factor=float(fields.take("routed_scaling_factor", scaling)),
        **more,
    )
    return made, pattern


def groups(fields: Fields, best: int, default: tuple[int, int] = (1, 1)) -> dict[str, Any]:
    """Group-limited routing; one group is none.

    The sum of its `best` experts stands for a group there. Here it is that of as many as each
    group can give, so other numbers are refused.
    """
    count, chosen = (
        int(fields.take(name, number))
        for name, number in zip(("n_group", "topk_group"), default, strict=True)
    )
    if count == 1:
        return {}
    top_k = int(fields.take("num_experts_per_tok"))
    fields.set("num_experts_per_tok", top_k)
    if top_k // chosen != best:
        choice = f"such that {top_k} (num_experts_per_tok) divided by it, rounded down, is {best}"
        raise fields.unsupported("topk_group", chosen, choice)
    return {"num_groups": count, "groups_top_k": chosen}


def written_groups(moe: MoEConfig) -> dict[str, Any]:
    """The inverse of `groups`."""
    return {"n_group": moe.num_groups or 1, "topk_group": moe.groups_top_k or 1}


def grouped_by(moe: MoEConfig, best: int) -> bool:
    """Are there no groups, or is each chosen by its `best` experts?"""
    return moe.groups_top_k is None or moe.top_k // moe.groups_top_k == best


def _without_groups(model: dict[str, Any], fields: Fields) -> dict[str, Any]:
    """Latent attention has no groups. Its norms add 1e-6 whatever the file says of the others."""
    if model["norm_epsilon"] != LATENT_EPSILON:
        raise fields.unsupported("rms_norm_eps", model["norm_epsilon"], "1e-6")
    return {key: value for key, value in model.items() if key != "num_query_groups"}


def _read_v2(fields: Fields) -> ModelConfig:
    swiglu(fields)
    known = sizes(fields, 2048)
    fields.expect("scoring_func", "softmax")
    fields.expect("norm_topk_prob", False)
    method = fields.take("topk_method", "greedy")
    if method not in ("greedy", "group_limited_greedy"):
        raise fields.unsupported("topk_method", method, '"greedy" or "group_limited_greedy"')
    limits = groups(fields, best=1) if method != "greedy" else {}
    fields.ignore(("n_group", "topk_group"))
    weight = float(fields.take("aux_loss_alpha", 0.001))
    moe, _ = experts(
        fields, known["num_layers"], pre_softmax=True, aux_loss_weight=weight, **limits
    )
    return ModelConfig(**_without_groups(known, fields), mla=_latent(fields), moe=moe)


def _read_v3(fields: Fields) -> ModelConfig:
    swiglu(fields)
    known = sizes(fields, 4096)
    fields.expect("scoring_func", "sigmoid")
    fields.expect("topk_method", "noaux_tc")
    fields.expect("norm_topk_prob", True)
    fields.expect("rope_interleave", True)
    fields.ignore(("aux_loss_alpha",))
    limits = groups(fields, best=2, default=(8, 4))
    kind: dict[str, Any] = {"score": "sigmoid", "balance": "bias", **limits}
    moe, _ = experts(fields, known["num_layers"], dense=3, scaling=2.5, **kind)
    heads = int(fields.take("num_nextn_predict_layers", 0))
    return ModelConfig(
        **_without_groups(known, fields),
        mla=_latent(fields),
        moe=moe,
        mtp=MTPConfig(num_heads=heads),
    )


def _write_latent(model: ModelConfig) -> dict[str, Any]:
    mla = model.mla
    assert mla is not None
    made = written(model) | {
        "num_key_value_heads": model.num_attention_heads,
        "attention_bias": False,
        "q_lora_rank": mla.q_lora_rank,
        "kv_lora_rank": mla.kv_lora_rank,
        "qk_nope_head_dim": mla.qk_nope_head_dim,
        "qk_rope_head_dim": mla.qk_rope_head_dim,
        "v_head_dim": mla.v_head_dim,
    }
    del made["head_dim"]
    return made


def write_experts(model: ModelConfig) -> dict[str, Any]:
    """The inverse of `experts`."""
    moe = model.moe
    assert moe is not None
    assert moe.ffn_hidden_size is not None
    return {
        "first_k_dense_replace": model.num_layers - sum(model.moe_pattern),
        "moe_intermediate_size": moe.ffn_hidden_size,
        "n_shared_experts": (moe.shared_ffn_hidden_size or 0) // moe.ffn_hidden_size,
        "n_routed_experts": moe.num_experts,
        "num_experts_per_tok": moe.top_k,
        "routed_scaling_factor": 1.0 if moe.scaling_factor is None else moe.scaling_factor,
    }


def _write_v2(model: ModelConfig) -> dict[str, Any]:
    moe = model.moe
    assert moe is not None
    method = "greedy" if moe.num_groups is None else "group_limited_greedy"
    return (
        _write_latent(model)
        | write_experts(model)
        | written_groups(moe)
        | {"topk_method": method, "norm_topk_prob": False}
    )


def _write_v3(model: ModelConfig) -> dict[str, Any]:
    moe = model.moe
    assert moe is not None
    return (
        _write_latent(model)
        | write_experts(model)
        | written_groups(moe)
        | {
            "norm_topk_prob": True,
            "scoring_func": "sigmoid",
            "topk_method": "noaux_tc",
            "num_nextn_predict_layers": model.mtp.num_heads,
        }
    )


def dense_first(model: ModelConfig) -> bool:
    """Are the dense layers the first ones, and shared experts as wide as some routed ones?"""
    moe = model.moe
    if moe is None or list(model.moe_pattern) != sorted(model.moe_pattern):
        return False
    return (moe.shared_ffn_hidden_size or 0) % (moe.ffn_hidden_size or 1) == 0


def _fits_v2(model: ModelConfig) -> bool:
    moe = model.moe
    if moe is None or model.mla is None or not usual(model) or not dense_first(model):
        return False
    scores = moe.score == "softmax" and moe.pre_softmax and grouped_by(moe, 1)
    scores = scores and model.norm_epsilon == LATENT_EPSILON
    return scores and model.window is None and model.mtp.num_heads == 0


def _fits_v3(model: ModelConfig) -> bool:
    moe = model.moe
    if moe is None or model.mla is None or not usual(model) or not dense_first(model):
        return False
    routed = moe.score == "sigmoid" and moe.balance == "bias" and grouped_by(moe, 2)
    return routed and model.window is None and model.norm_epsilon == LATENT_EPSILON


DEEPSEEK_V2 = Family("deepseek_v2", "DeepseekV2ForCausalLM", Names(), _read_v2, _write_v2, _fits_v2)
DEEPSEEK_V3 = Family("deepseek_v3", "DeepseekV3ForCausalLM", Names(), _read_v3, _write_v3, _fits_v3)
