"""Loss of given logits and the gradient over them; every contestant may overwrite the logits.

A set of inputs is used again and again, so from its second use on its logits are gradients: small
numbers, which take as long as any.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tools.benchmarks.kernel_case import Case
from trivium.kernels.cross_entropy import token_scores, weighted_cross_entropy

TARGET = "<= 1.2 ms for 8192 x 131072 bf16, TP1; >= 3x Liger; peak <= 1.1x the logits"


def cases(tiny: bool) -> list[Case]:
    """Loss and gradient in one pass and in two, scores alone."""
    if tiny:
        return [_weighted(64, 1000), _scores(64, 1000), _forward(64, 1000)]
    return [
        _weighted(8192, 131072, TARGET),
        _scores(8192, 131072),
        _forward(8192, 131072),
        _weighted(4096, 129280),
    ]


def _inputs(rows: int, columns: int) -> Callable[[], tuple[Any, ...]]:
    def inputs() -> tuple[Any, ...]:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        logits = torch.empty(rows, columns, dtype=torch.bfloat16, device=device)
        logits.normal_(std=3.0).requires_grad_()
        labels = torch.randint(columns, (rows,), device=device)
        return logits, labels, torch.ones(rows, device=device)

    return inputs


def _differentiated(
    loss: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    def both(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        return torch.autograd.grad(loss(logits, labels, weights), logits)[0]

    return both


def _torch(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    return (F.cross_entropy(logits, labels, reduction="none") * weights).sum()


def _peers() -> dict[str, Callable[..., Any]]:
    peers: dict[str, Callable[..., Any]] = {}
    try:
        from liger_kernel.ops.cross_entropy import LigerCrossEntropyFunction
        from liger_kernel.ops.vocab_parallel_cross_entropy import LigerVocabParallelCEFunction
    except ImportError:
        pass
    else:

        def liger(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
            del weights
            loss: Tensor = LigerCrossEntropyFunction.apply(
                logits, labels, None, -100, 0.0, 0.0, "sum"
            )[0]
            return loss

        def parallel(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
            loss: Tensor = LigerVocabParallelCEFunction.apply(
                logits.unsqueeze(1), labels.unsqueeze(1), None, -100, 0.0, "megatron", "partition"
            )
            return (loss.squeeze(1) * weights).sum()

        peers |= {"liger": _differentiated(liger), "liger_vpce": _differentiated(parallel)}
    peers["torch"] = _differentiated(_torch)
    if torch.cuda.is_available():
        peers["compile"] = _differentiated(torch.compile(_torch))
    return peers


def _weighted(rows: int, columns: int, target: str = "") -> Case:
    def ours(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        return weighted_cross_entropy(logits, labels, weights)[0]

    return Case(
        name=f"cross_entropy forward + backward {rows} x {columns} bf16",
        inputs=_inputs(rows, columns),
        contestants={"ours": _differentiated(ours), **_peers()},
        bytes=2 * 2 * rows * columns,
        target=target,
    )


def _scores(rows: int, columns: int) -> Case:
    """The general way: what flows into the scores is known only in the backward pass."""

    def ours(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        return (token_scores(logits, labels)[0] * weights).sum()

    def entropy(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        nll, _, spread = token_scores(logits, labels, entropy=True)
        return (nll * weights + spread * weights).sum()

    return Case(
        name=f"cross_entropy in two passes, forward + backward {rows} x {columns} bf16",
        inputs=_inputs(rows, columns),
        contestants={
            "ours": _differentiated(ours),
            "ours with entropy": _differentiated(entropy),
        },
        bytes=3 * 2 * rows * columns,
    )


def _forward(rows: int, columns: int) -> Case:
    def ours(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        del weights
        return token_scores(logits.detach(), labels)[0]

    def plain(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        del weights
        return F.cross_entropy(logits.detach(), labels, reduction="none")

    return Case(
        name=f"cross_entropy forward {rows} x {columns} bf16",
        inputs=_inputs(rows, columns),
        contestants={"ours": ours, "torch": plain},
        bytes=2 * rows * columns,
    )
