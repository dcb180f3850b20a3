"""RMSNorm and LayerNorm that know about sequence parallelism and zero-centred gains.

megatron-core's torch fallback refuses both. One module serves every place of the model: before
attention and feed-forward, after the last layer, on q and k per head, and on MLA's latents.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.tensor_parallel import set_tensor_model_parallel_attributes
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint

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


class HeadsNorm(torch.nn.Module):
    """RMSNorm over all heads of q, or of k, together (OLMo 2, arXiv 2501.00656, section 2.1).

    Heads are split over tp, and so is the gain; the mean square is of all of them.

    Args:
        config: as for `Norm`; RMSNorm only.
        hidden_size: of one head, as megatron-core names it.
        heads: of this tensor-parallel rank.
    """

    def __init__(
        self,
        config: TransformerConfig,
        hidden_size: int,
        heads: int,
        eps: float = 1e-5,
        **unused: Any,
    ) -> None:
        super().__init__()
        del unused
        self.group = parallel_state.get_tensor_model_parallel_group()
        self.eps = eps
        self.width = heads * hidden_size * self.group.size()
        device = torch.cuda.current_device()
        self.zero_centered = config.layernorm_zero_centered_gamma
        make = torch.zeros if self.zero_centered else torch.ones
        weight = make(heads * hidden_size, dtype=config.params_dtype, device=device)
        self.weight = torch.nn.Parameter(weight)
        set_tensor_model_parallel_attributes(self.weight, True, 0, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., heads, hidden_size] of this rank, normalised; statistics in fp32."""
        wide = x if x.dtype == torch.float64 else x.float()
        squares = wide.square().sum(dim=(-2, -1), keepdim=True)
        if self.group.size() > 1:
            squares = _SumOverRanks.apply(squares, self.group)
        gain = self.weight.to(wide.dtype).view(x.shape[-2:])
        gain = gain + 1 if self.zero_centered else gain
        return (wide * torch.rsqrt(squares / self.width + self.eps) * gain).to(x.dtype)

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple[Any, ...] = (), metadata: Any = None
    ) -> dict[str, Any]:
        """The gain, split over tp as the heads are."""
        del metadata
        state = self.state_dict(prefix="", keep_vars=True)
        return make_sharded_tensors_for_checkpoint(state, prefix, {"weight": 0}, sharded_offsets)


class _SumOverRanks(torch.autograd.Function):
    """A sum over a group of what each rank goes on to use: its gradient is summed as well."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.group = group
        total = x.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        total = gradient.contiguous().clone()
        dist.all_reduce(total, group=ctx.group)
        return total, None
