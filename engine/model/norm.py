"""RMSNorm and LayerNorm that know about sequence parallelism and zero-centred gains.

megatron-core's torch fallback refuses both. One module serves every place of the model: before
attention and feed-forward, after the last layer, on q and k per head, and on MLA's latents.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.transformer import TransformerConfig

from trivium.kernels.norm import add_rms_norm, layer_norm, rms_norm


class Norm(torch.nn.Module):
    """y = x / rms(x) * g (RMSNorm, arXiv 1910.07467) or (x - mean) / std * g + b (LayerNorm).

    Args:
        config: `normalization` chooses which; `layernorm_zero_centered_gamma` stores g - 1;
            `sequence_parallel` marks the parameters, whose gradients are then summed over tp.
        hidden_size: size of the last dim.
        eps: added to the variance (or mean square).
    """

    def __init__(
        self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **unused: Any
    ) -> None:
        super().__init__()
        del unused  # megatron passes persist_layer_norm and the like, which choose kernels
        self.shape = (hidden_size,)
        self.eps = eps
        self.rms = config.normalization == "RMSNorm"
        self.zero_centered = config.layernorm_zero_centered_gamma
        make = torch.zeros if self.zero_centered else torch.ones
        device = torch.cuda.current_device()
        options = {"dtype": config.params_dtype, "device": device}
        self.weight = torch.nn.Parameter(make(hidden_size, **options))
        self.bias = None if self.rms else torch.nn.Parameter(torch.zeros(hidden_size, **options))
        for parameter in self.parameters():
            parameter.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]

    def forward(
        self, x: torch.Tensor, residual: torch.Tensor | None = None
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """x [..., hidden_size], any float dtype; statistics are computed in fp32.

        With a residual (RMSNorm only): the norm of x + residual, and that sum.
        """
        if residual is not None:
            if not self.rms:
                raise ValueError("LayerNorm takes no residual; add it before")
            return add_rms_norm(x, residual, self.weight, self.eps, self.zero_centered)
        if self.rms:
            return rms_norm(x, self.weight, self.eps, self.zero_centered)
        return layer_norm(x, self.weight, self.bias, self.eps, self.zero_centered)

    def extra_repr(self) -> str:
        kind = "RMSNorm" if self.rms else "LayerNorm"
        return f"{kind}, {self.shape[0]}, eps={self.eps}, zero_centered={self.zero_centered}"
