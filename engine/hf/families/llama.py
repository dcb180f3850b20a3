"""Llama 2 and 3 (arXiv 2307.09288, 2407.21783), and Mistral (arXiv 2310.06825), their cousin with a
window. SmolLM and many others are Llamas too."""

from __future__ import annotations

from typing import Any

from trivium.engine.hf.decoder import Names
from trivium.engine.hf.families.family import Family, head_dim, sizes, swiglu, usual, written
from trivium.engine.hf.fields import Fields
from trivium.engine.schema import ModelConfig


def _read_llama(fields: Fields) -> ModelConfig:
    swiglu(fields)
    fields.expect("attention_bias", False)
    fields.expect("rope_interleaved", False)
    return ModelConfig(**sizes(fields, 2048), **head_dim(fields))


def _write_llama(model: ModelConfig) -> dict[str, Any]:
    return written(model) | {"attention_bias": False, "mlp_bias": False}


def _plain(model: ModelConfig) -> bool:
    """Grouped attention without norms or biases of its own, dense, no percentage of rotation."""
    return (
        usual(model)
        and model.mla is None
        and model.moe is None
        and not model.qk_norm
        and not model.qkv_bias
        and model.rope.percent == 1
        and model.mtp.num_heads == 0
    )


def _fits_llama(model: ModelConfig) -> bool:
    return _plain(model) and model.window is None


def _read_mistral(fields: Fields) -> ModelConfig:
    swiglu(fields)
    window = fields.nullable("sliding_window", 4096)
    return ModelConfig(**sizes(fields, 131072), **head_dim(fields), window=window)


def _write_mistral(model: ModelConfig) -> dict[str, Any]:
    return written(model) | {"sliding_window": model.window}


def _fits_mistral(model: ModelConfig) -> bool:
    return _plain(model) and (model.window is None or all(model.window_pattern))


LLAMA = Family("llama", "LlamaForCausalLM", Names(), _read_llama, _write_llama, _fits_llama)
MISTRAL = Family(
    "mistral", "MistralForCausalLM", Names(), _read_mistral, _write_mistral, _fits_mistral
)
