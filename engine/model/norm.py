"""RMSNorm and LayerNorm that know about sequence parallelism and zero-centred gains.

megatron-core's torch fallback refuses both. One module serves every place of the model: before
attention and feed-forward, after the last layer, on q and k per head, and on MLA's latents.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.transformer import TransformerConfig


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

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., hidden_size], any float dtype; statistics are computed in fp32 inside torch."""
        gain = self.weight + 1 if self.zero_centered else self.weight
        if self.rms and x.is_cuda:
            return F.rms_norm(x, self.shape, gain, self.eps)
        if self.rms:
            return _RMSNorm.apply(x, gain, self.eps)
        return F.layer_norm(x, self.shape, gain, self.bias, self.eps)

    def extra_repr(self) -> str:
        kind = "RMSNorm" if self.rms else "LayerNorm"
        return f"{kind}, {self.shape[0]}, eps={self.eps}, zero_centered={self.zero_centered}"


class _RMSNorm(torch.autograd.Function):
    """RMSNorm in few passes; torch's own is a chain of operators on a CPU, three times as slow."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, gain: torch.Tensor, eps: float) -> torch.Tensor:
        wide = _wide(x)
        mean_square = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_()
        scale = mean_square.div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, gain, scale)
        return (wide * scale).mul_(gain).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        x, gain, scale = ctx.saved_tensors
        size = x.shape[-1]
        grad_RH, x_RH, scale_R1 = (_wide(t).reshape(-1, t.shape[-1]) for t in (grad, x, scale))
        product_RH = (grad_RH * x_RH).mul_(scale_R1)
        grad_gain = product_RH.sum(dim=0)
        # the mean over H of gain * grad * x / rms, times what x / rms still lacks
        mean_R1 = product_RH.mv(_wide(gain)).unsqueeze(1).mul_(scale_R1.square()).div_(-size)
        grad_x = torch.mul(grad_RH, gain, out=product_RH).mul_(scale_R1).addcmul_(x_RH, mean_R1)
        return grad_x.to(x.dtype).view_as(x), grad_gain.to(gain.dtype), None


def _wide(x: torch.Tensor) -> torch.Tensor:
    """In the dtype that statistics are taken in."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
