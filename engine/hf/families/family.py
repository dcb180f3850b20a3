"""What a family is, and what most of them say alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from trivium.engine.hf import rope
from trivium.engine.hf.decoder import Names
from trivium.engine.hf.fields import Fields
from trivium.engine.schema import ModelConfig

SLIDING, FULL = "sliding_attention", "full_attention"


@dataclass(frozen=True)
class Family:
    """How one `model_type` is read and written.

    read: its fields -> the model. write: the model -> its fields, less what every family writes.
    fits: why a model cannot be written as this family, or None.
    """

    model_type: str
    architecture: str
    names: Names
    read: Callable[[Fields], ModelConfig]
    write: Callable[[ModelConfig], dict[str, Any]]
    fits: Callable[[ModelConfig], bool]


def sizes(
    fields: Fields,
    max_position: int,
    theta: float = 10000.0,
    percent: float = 1.0,
    epsilon: float = 1e-6,
) -> dict[str, Any]:
    """Fields of ModelConfig that all families name alike. None has a bias in the feed-forward.

    max_position, theta, percent (of a head that rotates), epsilon: where the file does not say.
    """
    fields.expect("mlp_bias", False)
    fields.expect("quantization_config")
    position = int(fields.take("max_position_embeddings", max_position))
    heads = int(fields.take("num_attention_heads"))
    return {
        "num_layers": int(fields.take("num_hidden_layers")),
        "hidden_size": int(fields.take("hidden_size")),
        "num_attention_heads": heads,
        "num_query_groups": int(fields.take("num_key_value_heads", heads)),
        "ffn_hidden_size": int(fields.take("intermediate_size")),
        "vocab_size": int(fields.take("vocab_size")),
        "max_position": position,
        "norm_epsilon": float(fields.take("rms_norm_eps", epsilon)),
        "tie_embeddings": bool(fields.take("tie_word_embeddings", False)),
        "attention_dropout": float(fields.take("attention_dropout", 0.0)),
        "init_std": float(fields.take("initializer_range", 0.02)),
        "rope": rope.read(fields, position, theta, percent),
    }


def head_dim(fields: Fields) -> dict[str, Any]:
    """The width of a head, where a family says it."""
    found = fields.take("head_dim", None)
    return {} if found is None else {"head_dim": int(found)}


def swiglu(fields: Fields) -> None:
    """The activation must be SwiGLU."""
    fields.expect("hidden_act", "silu", "swish")


def written(model: ModelConfig) -> dict[str, Any]:
    """The inverse of `sizes` and `head_dim`."""
    parameters = rope.write(model.rope)
    return {
        "num_hidden_layers": model.num_layers,
        "hidden_size": model.hidden_size,
        "num_attention_heads": model.num_attention_heads,
        "num_key_value_heads": model.num_query_groups,
        "head_dim": model.head_dim,
        "intermediate_size": model.ffn_hidden_size,
        "vocab_size": model.vocab_size,
        "max_position_embeddings": model.max_position,
        "rms_norm_eps": model.norm_epsilon,
        "tie_word_embeddings": model.tie_embeddings,
        "attention_dropout": model.attention_dropout,
        "initializer_range": model.init_std,
        "hidden_act": "silu",
        **both_styles(model, parameters),
    }


def both_styles(model: ModelConfig, parameters: dict[str, Any]) -> dict[str, Any]:
    """Rotary parameters for transformers 5, and for 4, which reads others."""
    rest = {k: v for k, v in parameters.items() if k not in ("rope_theta", "partial_rotary_factor")}
    made: dict[str, Any] = {"rope_parameters": parameters, "rope_theta": model.rope.theta}
    if model.rope.scaling != "none":
        made["rope_scaling"] = rest
    return made


def windows(fields: Fields, model: dict[str, Any], default: int | None = None) -> dict[str, Any]:
    """`sliding_window` of the layers that `layer_types` names; of all where it names none.

    default: of the window, in a family whose files may leave it out.
    """
    size, kinds = fields.take("sliding_window", default), fields.take("layer_types", None)
    fields.ignore(("max_window_layers", "_sliding_window_pattern"))
    if kinds is None:
        return {"window": size}
    unknown = sorted(set(kinds) - {SLIDING, FULL})
    if unknown:
        raise fields.unsupported("layer_types", unknown[0], f'"{SLIDING}" and "{FULL}"')
    pattern = tuple(int(kind == SLIDING) for kind in kinds)
    if len(pattern) != model["num_layers"]:
        raise fields.unsupported("layer_types", kinds, "one for each of num_hidden_layers")
    if size is None or not any(pattern):
        return {"window": None}
    return {"window": size, "window_layers": None if all(pattern) else pattern}


def layer_types(model: ModelConfig) -> list[str]:
    """The inverse of `windows`."""
    return [SLIDING if seen else FULL for seen in model.window_pattern]


def usual(model: ModelConfig) -> bool:
    """Is it a plain decoder: RMSNorm before, SwiGLU, rotary, nothing scaled or capped?"""
    return (
        model.normalization == "rmsnorm"
        and not model.norm_zero_centered
        and model.norm_placement == "pre"
        and model.activation == "swiglu"
        and plain_parts(model)
        and not model.rope.interleaved
        and model.rope.window_theta is None
    )


def plain_parts(model: ModelConfig) -> bool:
    """Nothing that one family alone has: caps, scales, biases of linear layers."""
    return (
        model.position == "rope"
        and not model.linear_bias
        and model.attention_scale is None
        and model.attention_softcap is None
        and model.logit_softcap is None
        and model.embedding_scale is None
        and (model.moe is None or not model.moe.shared_gate)
    )
