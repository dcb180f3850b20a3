"""Gated activations in one pass: SwiGLU and GeGLU (arXiv 2002.05202), weighted by token or not.

Plain autograd keeps three tensors of the widest kind of a layer for the backward, and the eager
SwiGLU of megatron-core makes eleven passes over them. Here only the input is kept, and what a token
counts for in an expert (its probability) goes along in the same pass, with its gradient.

Shapes: F feed-forward width of this tensor-parallel rank; [..., 2F] is the gate, then the value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from trivium.kernels.registry import Operator

ACTIVATION = Operator(
    "gated_activation", "SwiGLU and GeGLU, weighted by token probabilities or not"
)


class _Pointwise(NamedTuple):
    """An activation and its derivative as operators that write to a given tensor."""

    write: Callable[..., torch.Tensor]  # (x, out=)
    write_gradient: Callable[..., torch.Tensor]  # (gradient, x, grad_input=)


_POINTWISE = (
    _Pointwise(torch.ops.aten.silu.out, torch.ops.aten.silu_backward.grad_input),
    _Pointwise(torch.ops.aten.gelu.out, torch.ops.aten.gelu_backward.grad_input),
)
KINDS = {"silu": 0, "gelu": 1}  # gelu is the exact one, by erf; the number is the place above


def gated_activation(x: torch.Tensor, kind: str, probs: torch.Tensor | None = None) -> torch.Tensor:
    """act(gate) * value * probs: x [..., 2F] -> [..., F], in the dtype of x.

    Args:
        x: gate and value; fp32, bf16 or fp16 (fp64 on a CPU). Rows may be strided.
        kind: `silu` (SwiGLU) or `gelu` (GeGLU, exact).
        probs: what each token counts for, [...], as a mixture of experts has it. Its gradient is
            summed over F in fp32, always in the same order.

    Raises ValueError for an unknown kind and for shapes that do not fit.
    """
    if kind not in KINDS:
        raise ValueError(f"gated activation {kind!r}: choose {' or '.join(KINDS)}")
    if x.dim() == 0 or x.shape[-1] % 2:
        raise ValueError(
            f"gated activation of {tuple(x.shape)}: the last dim is gate and value, 2F"
        )
    if probs is not None:
        if probs.shape != x.shape[:-1]:
            shapes = f"{tuple(probs.shape)} for x {tuple(x.shape)}"
            raise ValueError(f"probs {shapes}: give one a token, {tuple(x.shape[:-1])}")
        probs = probs.to(_wide(x.dtype))
    return torch.ops.trivium.gated_activation(x, probs, KINDS[kind])


def _wide(dtype: torch.dtype) -> torch.dtype:
    """What probabilities and their gradient are kept in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


@ACTIVATION.define("gated_activation(Tensor x, Tensor? probs, int act) -> Tensor")
def _forward(x: torch.Tensor, probs: torch.Tensor | None, act: int) -> torch.Tensor:
    gate, value = x.chunk(2, dim=-1)
    y = _POINTWISE[act].write(gate, out=x.new_empty(gate.shape)).mul_(value)
    return y if probs is None else y.mul_(probs.unsqueeze(-1))


@ACTIVATION.define(
    "gated_activation_backward(Tensor grad, Tensor x, Tensor? probs, int act) -> (Tensor, Tensor)"
)
def _backward(
    grad: torch.Tensor, x: torch.Tensor, probs: torch.Tensor | None, act: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients of x and of probs; that of probs is empty without them."""
    gate, value = x.chunk(2, dim=-1)
    dx = x.new_empty(x.shape)
    grad_gate, grad_value = dx.chunk(2, dim=-1)
    activated = _POINTWISE[act].write(gate, out=grad_value)
    wide = _wide(x.dtype)
    if probs is None:
        dprobs = x.new_empty(0, dtype=wide)
    else:
        dprobs = (activated.to(wide) * value).mul_(grad).sum(-1)
        grad = (grad * probs.unsqueeze(-1)).to(x.dtype)
    activated.mul_(grad)
    torch.mul(grad, value, out=grad_gate)
    _POINTWISE[act].write_gradient(grad_gate, gate, grad_input=grad_gate)
    return dx, dprobs


@ACTIVATION.fake("gated_activation")
def _forward_fake(x: torch.Tensor, probs: torch.Tensor | None, act: int) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], x.shape[-1] // 2))


@ACTIVATION.fake("gated_activation_backward")
def _backward_fake(
    grad: torch.Tensor, x: torch.Tensor, probs: torch.Tensor | None, act: int
) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = (0,) if probs is None else x.shape[:-1]
    return x.new_empty(x.shape), x.new_empty(tokens, dtype=_wide(x.dtype))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    del output
    x, probs, ctx.act = inputs
    ctx.save_for_backward(x, probs)


def _gradients(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, None]:
    x, probs = ctx.saved_tensors
    dx, dprobs = torch.ops.trivium.gated_activation_backward(grad, x, probs, ctx.act)
    return dx, None if probs is None else dprobs, None


ACTIVATION.autograd("gated_activation", _gradients, _keep)
