"""RMSNorm, LayerNorm, and residual add + RMSNorm: y = (x - mean) * rstd * gain + bias.

RMSNorm (Zhang and Sennrich, arXiv 1910.07467) has no mean and no bias and takes the root mean
square for the deviation; LayerNorm is arXiv 1607.06450. A zero-centred gain is stored less one; the
one is added in the dtype of the statistics, fp32, so that small weights keep their bits.

Shapes: x is [..., H] and rows are its last dim, whatever the leading dims; y is contiguous.
Statistics are [...], in fp32 (float64 for float64). Shape suffixes: R rows, H their width.
"""

from __future__ import annotations

from typing import Any

import torch

from trivium.kernels.registry import Operator

NORM = Operator("norm", "RMSNorm and LayerNorm, forward and backward, with the residual's addition")
_Pair = tuple[torch.Tensor, torch.Tensor]
_Triple = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float = 1e-5, zero_centered: bool = False
) -> torch.Tensor:
    """y = x / sqrt(mean(x^2) + eps) * gain, in the dtype of x; differentiable in x and weight.

    x: [..., H]. weight: [H], of any float dtype; the gain, or the gain less one if `zero_centered`.
    """
    return torch.ops.trivium.rms_norm(x, weight, eps, zero_centered)[0]


def add_rms_norm(
    x: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor,
    eps: float = 1e-5,
    zero_centered: bool = False,
) -> _Pair:
    """(RMSNorm of x + residual, x + residual): one pass over memory instead of two.

    The sum is rounded to the dtype of x first, and that is what is normalised: the same values as
    `rms_norm(x + residual, ...)`. x and residual: [..., H], of one dtype.
    """
    y, total, _ = torch.ops.trivium.add_rms_norm(x, residual, weight, eps, zero_centered)
    return y, total


def layer_norm(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    eps: float = 1e-5,
    zero_centered: bool = False,
) -> torch.Tensor:
    """y = (x - mean) / sqrt(var + eps) * gain + bias, in the dtype of x.

    x: [..., H]. weight and bias: [H], of one float dtype; see `rms_norm`.
    """
    return torch.ops.trivium.layer_norm(x, weight, bias, eps, zero_centered)[0]


# --- References: the CPU path, and CUDA's where no kernel is --------------------------------------


def _wide(x: torch.Tensor) -> torch.Tensor:
    """In the dtype that statistics are taken in."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _gain(weight: torch.Tensor, zero_centered: bool) -> torch.Tensor:
    return _wide(weight) + 1 if zero_centered else _wide(weight)


@NORM.define("rms_norm(Tensor x, Tensor weight, float eps, bool zero_centered) -> (Tensor, Tensor)")
def _rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float, zero_centered: bool) -> _Pair:
    """(y, rstd). In few passes; torch's own is a chain of operators on a CPU, one on CUDA."""
    if x.is_cuda:
        gain = _gain(weight, zero_centered).to(x.dtype)
        y, rstd = torch.ops.aten._fused_rms_norm(x, x.shape[-1:], gain, eps)
        return y.contiguous(), rstd.reshape(x.shape[:-1])
    wide = _wide(x)
    norm = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    rstd = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    y = (wide * rstd).mul_(_gain(weight, zero_centered)).to(x.dtype)
    return y.contiguous(), rstd.squeeze(-1)


@NORM.define(
    "rms_norm_backward(Tensor grad, Tensor x, Tensor weight, Tensor rstd, bool zero_centered)"
    " -> (Tensor, Tensor)"
)
def _rms_norm_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    rstd: torch.Tensor,
    zero_centered: bool,
) -> _Pair:
    """(dL/dx, dL/dweight) for grad = dL/dy."""
    return _backward(grad, x, weight, rstd, zero_centered, None)


def _backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    rstd: torch.Tensor,
    zero_centered: bool,
    direct: torch.Tensor | None,
) -> _Pair:
    """With n = x * rstd: dx = rstd * (grad * gain - n * mean_H(grad * gain * n)) + direct."""
    gain, size = _gain(weight, zero_centered), x.shape[-1]
    grad_RH, x_RH = (_wide(t).reshape(-1, size) for t in (grad, x))
    rstd_R1 = rstd.reshape(-1, 1)
    product_RH = (grad_RH * x_RH).mul_(rstd_R1)
    grad_weight = product_RH.sum(dim=0)
    mean_R1 = product_RH.mv(gain.to(product_RH.dtype)).unsqueeze(1)
    mean_R1 = mean_R1.mul_(rstd_R1.square()).div_(-size)
    grad_x = torch.mul(grad_RH, gain, out=product_RH).mul_(rstd_R1).addcmul_(x_RH, mean_R1)
    if direct is not None:
        grad_x += direct.reshape(-1, size)
    return grad_x.to(x.dtype).view(x.shape), grad_weight.to(weight.dtype)


@NORM.define(
    "add_rms_norm(Tensor x, Tensor residual, Tensor weight, float eps, bool zero_centered)"
    " -> (Tensor, Tensor, Tensor)"
)
def _add_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float, zero_centered: bool
) -> _Triple:
    """(y, x + residual, rstd)."""
    _require_same(x, residual, "x and residual")
    total = (x + residual).contiguous()
    y, rstd = _rms_norm(total, weight, eps, zero_centered)
    return y, total, rstd


@NORM.define(
    "add_rms_norm_backward(Tensor grad, Tensor grad_sum, Tensor sum, Tensor weight, Tensor rstd,"
    " bool zero_centered) -> (Tensor, Tensor)"
)
def _add_rms_norm_backward(
    grad: torch.Tensor,
    grad_sum: torch.Tensor,
    total: torch.Tensor,
    weight: torch.Tensor,
    rstd: torch.Tensor,
    zero_centered: bool,
) -> _Pair:
    """(dL/dx = dL/dresidual, dL/dweight) for the gradients of y and of the sum."""
    _require_same(grad, grad_sum, "the gradients of y and of the sum")
    return _backward(grad, total, weight, rstd, zero_centered, grad_sum)


@NORM.define(
    "layer_norm(Tensor x, Tensor weight, Tensor? bias, float eps, bool zero_centered)"
    " -> (Tensor, Tensor, Tensor)"
)
def _layer_norm(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    eps: float,
    zero_centered: bool,
) -> _Triple:
    """(y, mean, rstd)."""
    gain, shift = _for_torch(x, weight, bias, zero_centered)
    y, mean, rstd = torch.native_layer_norm(x, x.shape[-1:], gain, shift, eps)
    return y.contiguous(), mean.reshape(x.shape[:-1]), rstd.reshape(x.shape[:-1])


@NORM.define(
    "layer_norm_backward(Tensor grad, Tensor x, Tensor weight, Tensor mean, Tensor rstd,"
    " bool zero_centered) -> (Tensor, Tensor, Tensor)"
)
def _layer_norm_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    mean: torch.Tensor,
    rstd: torch.Tensor,
    zero_centered: bool,
) -> _Triple:
    """(dL/dx, dL/dweight, dL/dbias) for grad = dL/dy."""
    gain, shift = _for_torch(x, weight, torch.zeros_like(weight), zero_centered)
    # in gain's dtype: on a CPU torch adds up a bf16 gain's gradient in bf16
    grad_x, grad_weight, grad_bias = torch.ops.aten.native_layer_norm_backward(
        grad.to(gain.dtype).contiguous(),
        x.to(gain.dtype).contiguous(),
        x.shape[-1:],
        mean.unsqueeze(-1),
        rstd.unsqueeze(-1),
        gain,
        shift,
        [True, True, True],
    )
    return grad_x.to(x.dtype), grad_weight.to(weight.dtype), grad_bias.to(weight.dtype)


def _for_torch(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, zero_centered: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Gain and bias in the dtype that torch's LayerNorm wants, so that statistics are in fp32."""
    dtype = x.dtype if x.is_cuda else _wide(x).dtype  # CUDA: one dtype; CPU: the statistics'
    gain = _gain(weight, zero_centered).to(dtype)
    return gain, None if bias is None else bias.to(dtype)


def _require_same(a: torch.Tensor, b: torch.Tensor, names: str) -> None:
    if a.shape != b.shape or a.dtype != b.dtype:
        raise ValueError(
            f"{names} differ: {tuple(a.shape)} {a.dtype} and {tuple(b.shape)} {b.dtype}; "
            "add + norm takes one shape and one dtype"
        )


# --- Shapes without data --------------------------------------------------------------------------


def _statistics(x: torch.Tensor) -> torch.Tensor:
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    return x.new_empty(x.shape[:-1], dtype=wide)


@NORM.fake("rms_norm")
def _(x: torch.Tensor, weight: torch.Tensor, eps: float, zero_centered: bool) -> _Pair:
    return x.new_empty(x.shape), _statistics(x)


@NORM.fake("add_rms_norm")
def _(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float, zero_centered: bool
) -> _Triple:
    return x.new_empty(x.shape), x.new_empty(x.shape), _statistics(x)


@NORM.fake("layer_norm")
def _(x: torch.Tensor, *others: Any) -> _Triple:
    return x.new_empty(x.shape), _statistics(x), _statistics(x)


@NORM.fake("rms_norm_backward")
def _(grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, *others: Any) -> _Pair:
    return x.new_empty(x.shape), weight.new_empty(weight.shape)


@NORM.fake("add_rms_norm_backward")
def _(
    grad: torch.Tensor,
    grad_sum: torch.Tensor,
    total: torch.Tensor,
    weight: torch.Tensor,
    *others: Any,
) -> _Pair:
    return total.new_empty(total.shape), weight.new_empty(weight.shape)


@NORM.fake("layer_norm_backward")
def _(grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, *others: Any) -> _Triple:
    return x.new_empty(x.shape), weight.new_empty(weight.shape), weight.new_empty(weight.shape)


# --- Gradients ------------------------------------------------------------------------------------


def _save_rms(ctx: Any, inputs: tuple[Any, ...], output: _Pair) -> None:
    x, weight, _, ctx.zero_centered = inputs
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(x, weight, output[1])


def _rms_gradient(ctx: Any, grad: torch.Tensor | None, *none: None) -> tuple[Any, ...]:
    if grad is None:
        return None, None, None, None
    backward = torch.ops.trivium.rms_norm_backward
    return (*backward(grad, *ctx.saved_tensors, ctx.zero_centered), None, None)


def _save_add(ctx: Any, inputs: tuple[Any, ...], output: _Triple) -> None:
    _, _, weight, _, ctx.zero_centered = inputs
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[2])
    ctx.save_for_backward(output[1], weight, output[2])


def _add_gradient(
    ctx: Any, grad: torch.Tensor | None, grad_sum: torch.Tensor | None, *none: None
) -> tuple[Any, ...]:
    if grad is None:
        return grad_sum, grad_sum, None, None, None
    saved = (*ctx.saved_tensors, ctx.zero_centered)
    if grad_sum is None:
        grad_x, grad_weight = torch.ops.trivium.rms_norm_backward(grad, *saved)
    else:
        grad_x, grad_weight = torch.ops.trivium.add_rms_norm_backward(grad, grad_sum, *saved)
    return grad_x, grad_x, grad_weight, None, None


def _save_layer(ctx: Any, inputs: tuple[Any, ...], output: _Triple) -> None:
    x, weight, _, _, ctx.zero_centered = inputs
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(x, weight, *output[1:])


def _layer_gradient(ctx: Any, grad: torch.Tensor | None, *none: None) -> tuple[Any, ...]:
    if grad is None:
        return None, None, None, None, None
    backward = torch.ops.trivium.layer_norm_backward
    grads = backward(grad, *ctx.saved_tensors, ctx.zero_centered)
    needed = zip(grads, ctx.needs_input_grad, strict=False)  # a bias of None needs none
    return (*(gradient if need else None for gradient, need in needed), None, None)


NORM.autograd("rms_norm", _rms_gradient, _save_rms)
NORM.autograd("add_rms_norm", _add_gradient, _save_add)
NORM.autograd("layer_norm", _layer_gradient, _save_layer)
