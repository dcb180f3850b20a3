"""The norm of a gradient in many tensors, what follows from it, and scaling: no host waits.

`squared_sum` of the gradients, which the caller reduces over ranks; `judge` makes a verdict of it
on the device: norm, clipping factor, refused or not; `adamw_` takes the verdict (`adamw.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from trivium.kernels.registry import Operator

GRADIENT_NORM = Operator("gradient_norm", "norm, clipping factor and finite check of many tensors")

_PIECE = 1 << 16  # a CPU's norm of 24 million fp32 numbers is off by 1e-3; pairwise sums are not


@GRADIENT_NORM.define("squared_sum(Tensor[] tensors) -> Tensor")
def _squared_sum(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    if tensors[0].is_cuda:
        wide = [t.float() if t.dtype in (torch.bfloat16, torch.float16) else t for t in tensors]
        norms = torch._foreach_norm(wide, 2)
        return torch.stack([norm.double() for norm in norms]).square().sum()
    pieces = (piece for t in tensors for piece in t.view(-1).split(_PIECE))
    wide_pieces = (p if p.dtype == torch.float64 else p.float() for p in pieces)
    return torch.stack([p.square().sum().double() for p in wide_pieces]).sum()


@GRADIENT_NORM.fake("squared_sum")
def _fake_squared_sum(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return tensors[0].new_empty((), dtype=torch.float64)


@GRADIENT_NORM.define("judge(Tensor squares, Tensor? loss, float max_norm) -> Tensor")
def _judge(squares: torch.Tensor, loss: torch.Tensor | None, max_norm: float) -> torch.Tensor:
    norm = squares.reshape(()).sqrt().float()
    fine = norm.isfinite() if loss is None else norm.isfinite() & loss.reshape(()).isfinite()
    factor = (max_norm / (norm.double() + 1e-6)).float().clamp(max=1.0)
    factor = torch.where(fine, factor, 1.0) if max_norm > 0 else torch.ones_like(norm)
    return torch.stack([norm, factor, (~fine).float()])


@GRADIENT_NORM.fake("judge")
def _fake_judge(squares: torch.Tensor, loss: torch.Tensor | None, max_norm: float) -> torch.Tensor:
    del loss, max_norm
    return squares.new_empty(3, dtype=torch.float32)


@GRADIENT_NORM.define("scale_(Tensor(a!)[] tensors, Tensor factor) -> ()")
def _scale_(tensors: Sequence[torch.Tensor], factor: torch.Tensor) -> None:
    if factor.is_cuda or factor != 1:
        torch._foreach_mul_(list(tensors), factor.reshape(()))


@GRADIENT_NORM.fake("scale_")
def _fake_scale_(tensors: Sequence[torch.Tensor], factor: torch.Tensor) -> None:
    del tensors, factor


def squared_sum(
    tensors: Sequence[torch.Tensor], device: torch.device | int | None = None
) -> torch.Tensor:
    """Sum of the squares of all elements of contiguous `tensors`: a float64 number, on the device.

    Squares are taken in fp32 (fp64 of fp64): an element beyond 1.8e19 makes the sum infinite. Added
    in one order always, so equal input gives equal bits. `device`: where a sum of nothing goes.
    """
    if not tensors:
        return torch.zeros((), dtype=torch.float64, device=device)
    result: torch.Tensor = torch.ops.trivium.squared_sum(tensors)
    return result


def judge(
    squares: torch.Tensor, loss: torch.Tensor | None = None, max_norm: float = 0.0
) -> torch.Tensor:
    """What to do with a gradient whose squares sum to `squares` (float64): fp32 [3], on the device.

    [0]: its norm. [1]: the factor that brings the norm down to `max_norm`, at most 1
    (Pascanu et al., arXiv 1211.5063); 1 where max_norm is 0. [2]: 1 where norm or `loss` (a number)
    is not finite, so that no update may be made; else 0.
    """
    loss = None if loss is None else loss.detach().double()
    result: torch.Tensor = torch.ops.trivium.judge(squares, loss, max_norm)
    return result


def scale_(tensors: Sequence[torch.Tensor], factor: torch.Tensor) -> None:
    """Multiply contiguous `tensors` by `factor`, one fp32 number on their device, in place."""
    if tensors:
        torch.ops.trivium.scale_(tensors, factor)


def clip_(tensors: Sequence[torch.Tensor], max_norm: float) -> torch.Tensor:
    """Scale `tensors` (at least one) in place to a norm of at most `max_norm`; gives the verdict.

    For optimizers that take no verdict, on one process: of a sharded gradient the squares must be
    reduced before they are judged.
    """
    verdict = judge(squared_sum(tensors), max_norm=max_norm)
    scale_(tensors, verdict[1:2])
    return verdict
