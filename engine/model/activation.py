"""The activation of a gated feed-forward: `trivium.kernels.activation` in megatron-core's slot.

Shapes: F feed-forward width of this tensor-parallel rank; [..., 2F] is the gate, then the value.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from megatron.core.transformer import TransformerConfig

from trivium.engine.model.variations import variations
from trivium.kernels.activation import gated_activation

KINDS = {F.silu: "silu", F.gelu: "gelu"}


class GatedActivation:
    """act(gate) * value: [..., 2F] -> [..., F], with the act that `config.activation_func` names.

    No torch module: megatron-core asks the modules of a feed-forward for their sharded state.
    """

    def __init__(self, config: TransformerConfig) -> None:
        self.kind = KINDS[config.activation_func]
        self.approximate = variations(config).tanh_gelu  # has no operator of its own

    def __call__(self, x: torch.Tensor, probs: torch.Tensor | None = None) -> torch.Tensor:
        """x [..., 2F] -> [..., F], in the dtype of x; times probs [...] where given."""
        if not self.approximate:
            return gated_activation(x, self.kind, probs)
        gate, value = x.chunk(2, dim=-1)
        product = F.gelu(gate, approximate="tanh") * value
        return product if probs is None else (product * probs.unsqueeze(-1)).to(x.dtype)
