"""Gemma 2 (arXiv 2408.00118) and the text model of Gemma 3 (arXiv 2503.19786)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from trivium.engine.hf import rope
from trivium.engine.hf.decoder import Names
from trivium.engine.hf.families.family import (
    FULL,
    SLIDING,
    Family,
    head_dim,
    layer_types,
    sizes,
    windows,
    written,
)
from trivium.engine.hf.fields import Fields
from trivium.engine.schema import ModelConfig, RopeConfig

NAMES = Names(
    after_attention="post_attention_layernorm",
    before_mlp="pre_feedforward_layernorm",
    after_mlp="post_feedforward_layernorm",
)


_Caps = tuple[float | None, float | None]


def _common(fields: Fields, known: dict[str, Any], caps: _Caps) -> dict[str, Any]:
    """What both say alike. caps: of scores and of logits, where the file does not say."""
    activation = fields.take("hidden_activation", None) or fields.take("hidden_act", None)
    fields.ignore(("hidden_act",))
    if activation not in (None, "gelu_pytorch_tanh"):
        raise fields.unsupported("hidden_activation", activation, '"gelu_pytorch_tanh"')
    fields.expect("attention_bias", False)
    fields.expect("use_bidirectional_attention", False)
    scalar = float(fields.take("query_pre_attn_scalar", 256))
    return {
        **(head_dim(fields) or {"head_dim": 256}),
        "norm_placement": "sandwich",
        "norm_zero_centered": True,
        "activation": "geglu_tanh",
        "attention_scale": scalar**-0.5,
        "embedding_scale": known["hidden_size"] ** 0.5,
        "attention_softcap": fields.nullable("attn_logit_softcapping", caps[0]),
        "logit_softcap": fields.nullable("final_logit_softcapping", caps[1]),
    }


def _tied(fields: Fields) -> None:
    """Files leave it out: both are tied unless they say otherwise."""
    if not fields.has("tie_word_embeddings"):
        fields.set("tie_word_embeddings", True)


def _alternating(fields: Fields, layers: int, every: int) -> None:
    """Files that do not list their layers: each `every`-th sees everything."""
    if not fields.has("layer_types"):
        kinds = [SLIDING if (index + 1) % every else FULL for index in range(layers)]
        fields.set("layer_types", kinds)


def _read_2(fields: Fields) -> ModelConfig:
    _tied(fields)
    known = sizes(fields, 8192)
    _alternating(fields, known["num_layers"], 2)
    seen = windows(fields, known, 4096)
    return ModelConfig(**known, **_common(fields, known, (50.0, 30.0)), **seen)


def _read_3(fields: Fields) -> ModelConfig:
    _tied(fields)
    local = _ropes(fields)
    known = sizes(fields, 131072, theta=1e6)
    pattern = fields.take("sliding_window_pattern", None) or fields.take(
        "_sliding_window_pattern", 6
    )
    fields.ignore(("_sliding_window_pattern",))
    _alternating(fields, known["num_layers"], int(pattern))
    seen = windows(fields, known, 4096)
    if known["rope"].scaling == "yarn":
        raise fields.unsupported("rope_type", "yarn", '"default", "linear" or "llama3"')
    known["rope"] = replace(known["rope"], window_theta=local if seen["window"] else None)
    return ModelConfig(**known, **_common(fields, known, (None, None)), **seen, qk_norm=True)


def _ropes(fields: Fields) -> float:
    """The theta of layers with a window; the other layers' parameters are left in `fields`."""
    local = float(fields.take("rope_local_base_freq", 10000.0))
    nested = fields.take("rope_parameters", None)
    if nested is None:
        return local
    if FULL not in nested:
        fields.set("rope_parameters", nested)
        return local
    near = dict(nested.get(SLIDING) or {"rope_theta": local})
    if near.get("rope_type", "default") != "default":
        raise fields.unsupported(f"rope_parameters.{SLIDING}", near, 'rope_type "default"')
    fields.set("rope_parameters", nested[FULL])
    return float(near.get("rope_theta", local))


def _write(model: ModelConfig) -> dict[str, Any]:
    assert model.attention_scale is not None
    made = written(model)
    del made["hidden_act"]
    scalar = model.attention_scale**-2
    if math.isclose(scalar, round(scalar), rel_tol=1e-9):
        scalar = round(scalar)
    return made | {
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        "query_pre_attn_scalar": scalar,
        "attn_logit_softcapping": model.attention_softcap,
        "final_logit_softcapping": model.logit_softcap,
        "sliding_window": model.window,
        "layer_types": layer_types(model),
    }


def _write_3(model: ModelConfig) -> dict[str, Any]:
    made = _write(model)
    for name in ("rope_theta", "rope_scaling"):
        made.pop(name, None)
    near = RopeConfig(theta=model.rope.window_theta or 10000.0)
    made["rope_parameters"] = {FULL: rope.write(model.rope), SLIDING: rope.write(near)}
    return made | {
        "rope_theta": model.rope.theta,  # as transformers 4 reads them
        "rope_local_base_freq": near.theta,
    }


def _plain(model: ModelConfig) -> bool:
    return (
        model.position == "rope"
        and model.normalization == "rmsnorm"
        and model.norm_zero_centered
        and model.norm_placement == "sandwich"
        and model.activation == "geglu_tanh"
        and model.attention_scale is not None
        and model.embedding_scale == model.hidden_size**0.5
        and not (model.mla or model.moe or model.qkv_bias or model.linear_bias)
        and not model.rope.interleaved
        and model.rope.percent == 1
        and model.mtp.num_heads == 0
    )


def _fits_2(model: ModelConfig) -> bool:
    return _plain(model) and not model.qk_norm and model.rope.window_theta is None


def _fits_3(model: ModelConfig) -> bool:
    return _plain(model) and model.qk_norm and model.qk_norm_over == "head"


GEMMA2 = Family("gemma2", "Gemma2ForCausalLM", NAMES, _read_2, _write, _fits_2)
GEMMA3 = Family("gemma3_text", "Gemma3ForCausalLM", NAMES, _read_3, _write_3, _fits_3)
