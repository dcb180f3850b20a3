"""What our layers know of a model that megatron-core's configuration has no field for.

`megatron_config.transformer_config` leaves it on the configuration, as `variations`, for modules
that megatron-core builds with nothing but that configuration.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from trivium.engine.schema import ModelConfig


@dataclass(frozen=True)
class Variations:
    """Of the decoder: see the fields of `ModelConfig` with the same names."""

    norm_placement: Literal["pre", "post", "sandwich"] = "pre"
    qk_norm_over: Literal["none", "head", "all"] = "none"
    window_pattern: tuple[bool, ...] = ()  # for every layer; empty: all alike
    window_theta: float | None = None
    rotary_percent: float = 1.0  # of a head's dims, in the layers that have `window_theta`
    attention_softcap: float | None = None
    tanh_gelu: bool = False  # the activation is GELU by its tanh approximation

    @staticmethod
    def of(model: ModelConfig) -> Variations:
        """Those of a filled-in model."""
        return Variations(
            norm_placement=model.norm_placement,
            qk_norm_over=model.qk_norm_over if model.qk_norm else "none",
            window_pattern=() if model.window_layers is None else model.window_pattern,
            window_theta=model.rope.window_theta,
            rotary_percent=model.rope.percent,
            attention_softcap=model.attention_softcap,
            tanh_gelu=model.activation == "geglu_tanh",
        )

    def has_window(self, layer_number: int) -> bool:
        """Does layer `layer_number`, counted from 1 over the whole decoder, see a window only?"""
        return self.window_pattern[layer_number - 1] if self.window_pattern else True


def variations(config: Any) -> Variations:
    """Those of a megatron-core configuration; the usual decoder where none were left there."""
    found = getattr(config, "variations", None)
    return found if isinstance(found, Variations) else Variations()
