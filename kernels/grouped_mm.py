"""Products of groups of rows with a matrix each: the feed-forward of a mixture of experts.

On a GPU there are two ways. torch's grouped kernel (`F.grouped_mm`, CUTLASS) takes all groups in
one launch and reads where they end on the device; it wins where groups are small. A cuBLAS product
for each group, written straight into its rows, wins where one product fills the chip by itself; it
needs the counts on the host. Whoever has the counts there passes both forms, and the sizes decide.
Neither way copies the matrices, however they lie, unless only the grouped kernel will do.

Shapes: T rows, sorted by group; E groups; a matrix is [N, K], as `torch.nn.Linear` keeps it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trivium.kernels.registry import NAMESPACE, Operator
from trivium.kernels.weight_gradient import accumulate

GROUPED = Operator("grouped_mm", "products of groups of rows with a matrix each (experts)")

# Outputs of one product from which cuBLAS, a group at a time, beats one grouped launch: four waves
# of 128 x 256 tiles on 132 multiprocessors.
LOOP_OUTPUTS = 2**24
# For weight gradients one wave is enough: the sum over rows is long, and cuBLAS adds to fp32 sums
# as it writes, which the grouped kernel cannot (`weight_gradient`).
LOOP_GRADIENT_OUTPUTS = 2**22

_MOST_GROUPS = 1023  # of the grouped kernel
_grouped: Callable[..., Tensor] | None = getattr(F, "grouped_mm", None) or getattr(
    torch, "_grouped_mm", None
)


@dataclass(frozen=True)
class Groups:
    """How many rows each group has: on the device, on the host, or both (then no one waits).

    offsets: int32 [E], the end of each group, on the device of the rows. counts: E numbers.
    """

    offsets: Tensor | None
    counts: list[int] | None

    @classmethod
    def of(cls, counts: Tensor, device: torch.device) -> Groups:
        """From int [E] wherever it lies, for rows on `device`, without waiting for the device."""
        if counts.device.type != "cpu":
            return cls(counts.cumsum(0, dtype=torch.int32), None)
        if device.type == "cpu":
            return cls(None, counts.tolist())
        ends = torch.empty(counts.shape, dtype=torch.int32, pin_memory=True)
        torch.cumsum(counts, 0, dtype=torch.int32, out=ends)
        return cls(ends.to(device, non_blocking=True), counts.tolist())


def grouped_linear(x: Tensor, groups: Groups, weights: Sequence[Tensor]) -> Tensor:
    """x [T, K], E matrices [N, K] -> [T, N]: each row times the transpose of its group's matrix.

    Differentiable; accumulates in fp32 (fp64 in fp64) and rounds once to the dtype of x. Raises
    ValueError where the counts do not add up to T (host counts only: the device's are trusted).
    """
    product: Tensor = torch.ops.trivium.grouped_mm(
        x, list(weights), groups.offsets, groups.counts, True
    )
    return product


def grouped_input_gradient(grad: Tensor, groups: Groups, weights: Sequence[Tensor]) -> Tensor:
    """Of `grouped_linear`: grad [T, N] -> [T, K]."""
    product: Tensor = torch.ops.trivium.grouped_mm(
        grad, list(weights), groups.offsets, groups.counts, False
    )
    return product


def add_weight_gradients(grad: Tensor, x: Tensor, groups: Groups, sums: Sequence[Tensor]) -> None:
    """Of `grouped_linear`: add each group's grad^T x to its tensor [N, K] of `sums`, in place.

    sums: in fp32 or the dtype of x. Where it can, the addition is part of the product: a bf16
    gradient is then never rounded before it is summed.
    """
    torch.ops.trivium.grouped_mm_weight_add(grad, x, list(sums), groups.offsets, groups.counts)


# References: a product a group; also what runs on a CPU


@GROUPED.define(
    "grouped_mm(Tensor x, Tensor[] weights, Tensor? offsets, int[]? counts, bool transpose)"
    " -> Tensor"
)
def _mm(
    x: Tensor,
    weights: Sequence[Tensor],
    offsets: Tensor | None,
    counts: Sequence[int] | None,
    transpose: bool,
) -> Tensor:
    out = x.new_empty(x.shape[0], _width(weights, transpose))
    for weight, (start, end) in zip(weights, _spans(x, offsets, counts), strict=True):
        if end > start:
            right = weight.t() if transpose else weight
            torch.mm(x[start:end], right, out=out[start:end])
    return out


@GROUPED.define(
    "grouped_mm_weight(Tensor grad, Tensor x, Tensor? offsets, int[]? counts) -> Tensor"
)
def _weight(
    grad: Tensor, x: Tensor, offsets: Tensor | None, counts: Sequence[int] | None
) -> Tensor:
    out = x.new_empty(_number(offsets, counts), grad.shape[1], x.shape[1])
    for part, (start, end) in zip(out, _spans(x, offsets, counts), strict=True):
        if end > start:
            torch.mm(grad[start:end].t(), x[start:end], out=part)
        else:
            part.zero_()
    return out


@GROUPED.define(
    "grouped_mm_weight_add(Tensor grad, Tensor x, Tensor(a!)[] sums, Tensor? offsets,"
    " int[]? counts) -> ()"
)
def _weight_add(
    grad: Tensor,
    x: Tensor,
    sums: Sequence[Tensor],
    offsets: Tensor | None,
    counts: Sequence[int] | None,
) -> None:
    for total, (start, end) in zip(sums, _spans(x, offsets, counts), strict=True):
        if end > start:
            accumulate(x[start:end], grad[start:end], total)


def _spans(
    x: Tensor, offsets: Tensor | None, counts: Sequence[int] | None
) -> Iterator[tuple[int, int]]:
    """First row and end of each group. Waits for the device where counts are only there."""
    if counts is not None:
        ends = list(itertools.accumulate(counts))
    elif offsets is not None:
        ends = offsets.tolist()
    else:
        raise ValueError("grouped_mm: neither offsets nor counts; pass at least one of them")
    if ends[-1] != x.shape[0]:
        raise ValueError(f"grouped_mm: the groups have {ends[-1]} rows, but x has {x.shape[0]}")
    return zip([0, *ends], ends, strict=False)


def _number(offsets: Tensor | None, counts: Sequence[int] | None) -> int:
    if counts is not None:
        return len(counts)
    assert offsets is not None
    return offsets.shape[0]


def _width(weights: Sequence[Tensor], transpose: bool) -> int:
    return weights[0].shape[0 if transpose else 1]


@GROUPED.fake("grouped_mm")
def _fake_mm(
    x: Tensor,
    weights: Sequence[Tensor],
    offsets: Tensor | None,
    counts: Sequence[int] | None,
    transpose: bool,
) -> Tensor:
    del offsets, counts
    return x.new_empty(x.shape[0], _width(weights, transpose))


@GROUPED.fake("grouped_mm_weight")
def _fake_weight(
    grad: Tensor, x: Tensor, offsets: Tensor | None, counts: Sequence[int] | None
) -> Tensor:
    return x.new_empty(_number(offsets, counts), grad.shape[1], x.shape[1])


@GROUPED.fake("grouped_mm_weight_add")
def _fake_weight_add(*args: Any) -> None:
    del args


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    del output
    x, weights, offsets, ctx.counts, ctx.transpose = inputs
    ctx.save_for_backward(x, offsets, *weights)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    x, offsets, *weights = ctx.saved_tensors
    counts, transpose = ctx.counts, ctx.transpose
    grad_x = None
    grad_weights: list[Tensor | None] = [None] * len(weights)
    if ctx.needs_input_grad[0]:
        grad_x = torch.ops.trivium.grouped_mm(grad, weights, offsets, counts, not transpose)
    if any(ctx.needs_input_grad[1]):
        left, right = (grad, x) if transpose else (x, grad)
        stack = torch.ops.trivium.grouped_mm_weight(left, right, offsets, counts)
        grad_weights = list(stack.unbind())
    return grad_x, grad_weights, None, None, None


GROUPED.autograd("grouped_mm", _backward, _setup)


# CUDA: the grouped kernel where it is able and pays, else the references above


def stacked(tensors: Sequence[Tensor]) -> Tensor | None:
    """[E, ...] over E tensors that lie in order, equally far apart, in one buffer; else None.

    Nothing is copied. The weights of experts lie so in the flat buffer that ZeRO keeps them in.
    """
    first, last = tensors[0], tensors[-1]
    shape, size = first.shape, first.element_size()
    starts = [tensor.data_ptr() for tensor in tensors]
    step = starts[1] - starts[0] if len(starts) > 1 else first.numel() * size
    if (
        step < first.numel() * size
        or step % size
        or any(b - a != step for a, b in itertools.pairwise(starts))
        or first.untyped_storage().data_ptr() != last.untyped_storage().data_ptr()
        or any(t.shape != shape or t.dtype != first.dtype for t in tensors)
        or not all(t.is_contiguous() for t in tensors)
    ):
        return None
    return first.as_strided((len(tensors), *shape), (step // size, *first.stride()))


def _able(rows: int, number: int, *operands: Tensor) -> bool:
    """Does torch's grouped kernel take these contiguous matrices, without falling back to a loop?

    It reads by TMA (sm_90, sm_100): bf16, every row of every operand at a multiple of 16 bytes.
    """
    return (
        _grouped is not None
        and rows > 0
        and number <= _MOST_GROUPS
        and all(
            t.dtype == torch.bfloat16
            and t.shape[-1] % 8 == 0
            and t.shape[-1] > 0
            and t.data_ptr() % 16 == 0
            for t in operands
        )
        and torch.cuda.get_device_capability(operands[0].device)[0] in (9, 10)
    )


def grouped_kernel(x: Tensor, weights: Tensor, offsets: Tensor, transpose: bool) -> Tensor:
    """torch's grouped kernel on contiguous x and weights [E, N, K] whose matrices are."""
    assert _grouped is not None
    return _grouped(x, weights.transpose(-2, -1) if transpose else weights, offs=offsets)


def grouped_kernel_weight(grad: Tensor, x: Tensor, offsets: Tensor) -> Tensor:
    """The same for the gradient of the weights: [E, N, K], zero where a group has no rows.

    With the left operand transposed and the right not, rows are no contiguous dim of either: the
    one layout in which the kernel takes groups of any size, none included.
    """
    assert _grouped is not None
    return _grouped(grad.t(), x, offs=offsets)


def _mm_cuda(
    x: Tensor,
    weights: Sequence[Tensor],
    offsets: Tensor | None,
    counts: Sequence[int] | None,
    transpose: bool,
) -> Tensor:
    rows, number = x.shape[0], len(weights)
    fills = rows * _width(weights, transpose) >= number * LOOP_OUTPUTS
    if offsets is not None and not (counts is not None and fills):
        x = x.contiguous()
        if _able(rows, number, x, weights[0]) and weights[0].shape[0] % 8 == 0:
            stack = stacked(weights)
            if stack is None and counts is None:
                stack = torch.stack(list(weights))
            if stack is not None and stack.stride(0) % 8 == 0:
                return grouped_kernel(x, stack, offsets, transpose)
    return _mm(x, weights, offsets, counts, transpose)


def _weight_cuda(
    grad: Tensor, x: Tensor, offsets: Tensor | None, counts: Sequence[int] | None
) -> Tensor:
    grad, x = grad.contiguous(), x.contiguous()
    if _groups_gradient(grad, x, offsets, counts):
        assert offsets is not None
        return grouped_kernel_weight(grad, x, offsets)
    return _weight(grad, x, offsets, counts)


def _weight_add_cuda(
    grad: Tensor,
    x: Tensor,
    sums: Sequence[Tensor],
    offsets: Tensor | None,
    counts: Sequence[int] | None,
) -> None:
    grad, x = grad.contiguous(), x.contiguous()
    if not _groups_gradient(grad, x, offsets, counts):
        _weight_add(grad, x, sums, offsets, counts)
        return
    assert offsets is not None
    gradients = grouped_kernel_weight(grad, x, offsets)
    total = stacked(sums)
    if total is not None:
        total.add_(gradients)
    else:
        torch._foreach_add_(list(sums), list(gradients.unbind()))


def _groups_gradient(
    grad: Tensor, x: Tensor, offsets: Tensor | None, counts: Sequence[int] | None
) -> bool:
    """Do weight gradients go through the grouped kernel?"""
    if offsets is None:
        return False
    fills = grad.shape[1] * x.shape[1] >= LOOP_GRADIENT_OUTPUTS
    return not (counts is not None and fills) and _able(x.shape[0], len(offsets), grad, x)


_cuda = torch.library.Library(NAMESPACE, "IMPL")
_cuda.impl("grouped_mm", _mm_cuda, "CUDA")
_cuda.impl("grouped_mm_weight", _weight_cuda, "CUDA")
_cuda.impl("grouped_mm_weight_add", _weight_add_cuda, "CUDA")
