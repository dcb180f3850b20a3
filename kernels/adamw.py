"""AdamW over many tensors in one pass, which also writes the low-precision copy of the weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from trivium.kernels.registry import Operator

ADAMW = Operator("adamw", "AdamW of many tensors: fp32 weights, their copy in the same pass")

_PIECE = 1 << 18  # elements that stay in a CPU's cache from the update to the copy


@ADAMW.define(
    "adamw_(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] exp_avgs, Tensor(c!)[] exp_avg_sqs, "
    "Tensor(d!)[] copies, Tensor? verdict, float lr, float beta1, float beta2, float eps, "
    "float weight_decay, int step, bool decoupled) -> ()"
)
def _reference(
    params: Sequence[torch.Tensor],
    grads: Sequence[torch.Tensor],
    exp_avgs: Sequence[torch.Tensor],
    exp_avg_sqs: Sequence[torch.Tensor],
    copies: Sequence[torch.Tensor],
    verdict: torch.Tensor | None,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    step: int,
    decoupled: bool,
) -> None:
    """torch's own fused kernel, piece by piece: scaled gradient, update and copy share a cache."""
    refused, factor = None, None
    if verdict is not None:
        if not verdict.is_cuda and verdict[2] != 0:
            return
        refused, factor = verdict[2], verdict[1]
        if not verdict.is_cuda and factor == 1:
            factor = None
    update = torch._fused_adamw_ if decoupled else torch._fused_adam_
    count = torch.tensor(float(step), device=params[0].device)
    lists = [params, grads, exp_avgs, exp_avg_sqs, *([copies] if copies else [])]
    for param, grad, first, second, *copy in _pieces(lists):
        gradient = grad.to(param.dtype)
        if factor is not None:
            gradient = gradient * factor.to(param.dtype)
        moments = first.to(param.dtype), second.to(param.dtype)
        update(
            [param],
            [gradient],
            [moments[0]],
            [moments[1]],
            [],
            [count],
            lr=lr,
            beta1=beta1,
            beta2=beta2,
            weight_decay=weight_decay,
            eps=eps,
            amsgrad=False,
            maximize=False,
            found_inf=refused,
        )
        if first.dtype != param.dtype:
            first.copy_(moments[0])
            second.copy_(moments[1])
        for low in copy:
            low.copy_(param)


def _pieces(lists: Sequence[Sequence[torch.Tensor]]) -> Iterator[list[torch.Tensor]]:
    """Flat pieces of the tensors at equal places; on CUDA each tensor whole."""
    for row in zip(*lists, strict=True):
        whole = row[0].numel()
        size = whole if row[0].is_cuda else _PIECE
        for start in range(0, whole, size or 1):
            yield [one.view(-1)[start : start + size] for one in row]


@ADAMW.fake("adamw_")
def _fake(params: Sequence[torch.Tensor], *others: object) -> None:
    del params, others


def adamw_(
    params: Sequence[torch.Tensor],
    grads: Sequence[torch.Tensor],
    exp_avgs: Sequence[torch.Tensor],
    exp_avg_sqs: Sequence[torch.Tensor],
    *,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    step: int,
    copies: Sequence[torch.Tensor] = (),
    verdict: torch.Tensor | None = None,
    decoupled: bool = True,
) -> None:
    """Update `params` and moments in place: AdamW (arXiv 1711.05101), Adam if not `decoupled`.

    params: fp32 (any floating dtype on a CPU). grads: fp32, bf16 or fp16. exp_avgs, exp_avg_sqs:
    fp32, or bf16 for half the memory; rounded to bf16, a second moment stands still where beta2 is
    so near 1 that a step moves it by less than 0.4 %. copies: none, or one for each param in bf16,
    fp16 or fp32, which the new weight is rounded to. Tensors at equal places have equal sizes; all
    are contiguous; within a list the dtype is one.

    step counts from 1. verdict: what `multi_tensor.judge` gives: every gradient is multiplied by
    verdict[1], and if verdict[2] is not 0 nothing is written at all. The host reads neither.
    """
    if not params:
        return
    if step < 1:
        raise ValueError(f"adamw_: step is {step}: it counts from 1")
    torch.ops.trivium.adamw_(
        params,
        grads,
        exp_avgs,
        exp_avg_sqs,
        copies,
        verdict,
        lr,
        beta1,
        beta2,
        eps,
        weight_decay,
        step,
        decoupled,
    )
