"""Gated activations in few passes: SwiGLU and GeGLU (arXiv 2002.05202).

megatron-core's eager SwiGLU takes eleven passes over the widest tensors of a layer in its backward
alone, each into new memory; plain autograd keeps three of those tensors for it. Here only the input
is kept, and results are written straight to where they belong.

Shapes: F feed-forward width of this tensor-parallel rank; [..., 2F] is the gate, then the value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from megatron.core.transformer import TransformerConfig


class _Pointwise(NamedTuple):
    """An activation and its derivative as operators that write to a given tensor."""

    write: Callable[..., torch.Tensor]  # (x, out=)
    write_gradient: Callable[..., torch.Tensor]  # (gradient, x, grad_input=)


_POINTWISE = {
    F.silu: _Pointwise(torch.ops.aten.silu.out, torch.ops.aten.silu_backward.grad_input),
    F.gelu: _Pointwise(torch.ops.aten.gelu.out, torch.ops.aten.gelu_backward.grad_input),
}


class GatedActivation:
    """act(gate) * value: [..., 2F] -> [..., F], with the act that `config.activation_func` names.

    No torch module: megatron-core asks the modules of a feed-forward for their sharded state.
    """

    def __init__(self, config: TransformerConfig) -> None:
        self.pointwise = _POINTWISE[config.activation_func]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., 2F] -> [..., F], in the dtype of x."""
        return _Gated.apply(x, self.pointwise)


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, act: _Pointwise) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.act = act
        gate, value = x.chunk(2, dim=-1)
        return act.write(gate, out=x.new_empty(gate.shape)).mul_(value)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        (x,) = ctx.saved_tensors
        gate, value = x.chunk(2, dim=-1)
        out = torch.empty_like(x)
        grad_gate, grad_value = out.chunk(2, dim=-1)
        ctx.act.write(gate, out=grad_value).mul_(grad)
        torch.mul(grad, value, out=grad_gate)
        ctx.act.write_gradient(grad_gate, gate, grad_input=grad_gate)
        return out, None
