"""Output layer and loss together, forward and backward, against the bare products and peers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tools.benchmarks.kernel_case import Case
from trivium.kernels.linear_cross_entropy import linear_cross_entropy, linear_token_scores

TARGET = "<= 1.15x the bare GEMMs (M8192 H4096 V128256); <= 0.6 GB scratch; >= 1.3x Liger"


def cases(tiny: bool) -> list[Case]:
    """Llama-3-8B's output layer; the gradient taken in the forward pass, and recomputed."""
    if tiny:
        return [_case(64, 32, 1000)]
    return [_case(8192, 4096, 128256, TARGET)]


def _products(hidden: Tensor, weight: Tensor, labels: Tensor, weights: Tensor) -> Any:
    """What no way can do without: three products, with all logits in memory."""
    del labels, weights
    with torch.no_grad():
        logits = hidden @ weight.t()
        return logits @ weight, logits.t() @ hidden


def _case(rows: int, hidden_size: int, columns: int, target: str = "") -> Case:
    def inputs() -> tuple[Any, ...]:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        like: dict[str, Any] = {"dtype": torch.bfloat16, "device": device}
        hidden = torch.randn(rows, hidden_size, **like).requires_grad_()
        weight = (torch.randn(columns, hidden_size, **like) * hidden_size**-0.5).requires_grad_()
        labels = torch.randint(columns, (rows,), device=device)
        return hidden, weight, labels, torch.ones(rows, device=device)

    def differentiated(loss: Callable[..., Tensor]) -> Callable[..., Any]:
        def both(hidden: Tensor, weight: Tensor, labels: Tensor, weights: Tensor) -> Any:
            return torch.autograd.grad(loss(hidden, weight, labels, weights), (hidden, weight))

        return both

    def recomputed(hidden: Tensor, weight: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        return (linear_token_scores(hidden, weight, labels)[0] * weights).sum()

    def plain(hidden: Tensor, weight: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        each = F.cross_entropy(F.linear(hidden, weight), labels, reduction="none")
        return (each * weights).sum()

    contestants: dict[str, Callable[..., Any]] = {
        "ours": differentiated(lambda *given: linear_cross_entropy(*given)[0]),
        "bare products": _products,
        "ours recomputed": differentiated(recomputed),
    }
    try:
        from liger_kernel.ops.fused_linear_cross_entropy import (
            LigerFusedLinearCrossEntropyFunction,
        )
    except ImportError:
        pass
    else:

        def liger(hidden: Tensor, weight: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
            del weights
            loss: Tensor = LigerFusedLinearCrossEntropyFunction.apply(
                hidden, weight, labels, None, None, -100, 0.0, 0.0, "sum"
            )[0]
            return loss

        contestants["liger"] = differentiated(liger)
    if hasattr(F, "linear_cross_entropy"):
        contestants["torch fused"] = differentiated(
            lambda hidden, weight, labels, weights: F.linear_cross_entropy(
                hidden, weight, labels, reduction="sum"
            )
        )
    contestants["torch"] = differentiated(plain)
    return Case(
        name=f"linear_cross_entropy forward + backward M{rows} H{hidden_size} V{columns} bf16",
        inputs=inputs,
        contestants=contestants,
        bytes=2 * (2 * rows * hidden_size + 2 * columns * hidden_size),
        flops=6 * rows * hidden_size * columns,
        target=target,
    )
