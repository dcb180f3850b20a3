"""A linear layer's weight gradient, added to fp32 `main_grad` inside the product.

The layers of Llama 3 8B, 8192 tokens, bf16. `gemm` is the product alone, in bf16 and not added to
anything: the target is to cost what it costs. `torch` is what megatron-core does without a fused
extension: the product in bf16, then the addition. FLOPs are 2 T in out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tools.benchmarks.kernel_case import Case
from trivium.kernels.weight_gradient import accumulate

LAYERS = {"qkv": (4096, 6144), "fc1": (4096, 28672), "fc2": (14336, 4096)}
TARGET = ">= 0.98x the plain GEMM"


def cases(tiny: bool) -> list[Case]:
    """One case a layer: fc1 first, the largest."""
    if tiny:
        return [_case("fc1", 64, 32, 48)]
    return [_case(name, 8192, *LAYERS[name]) for name in ("fc1", "fc2", "qkv")]


def _case(name: str, tokens: int, columns: int, rows: int) -> Case:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def inputs() -> tuple[torch.Tensor, ...]:
        x = torch.randn(tokens, columns, device=device, dtype=torch.bfloat16)
        grad = torch.randn(tokens, rows, device=device, dtype=torch.bfloat16)
        return x, grad, torch.zeros(rows, columns, device=device)

    contestants: dict[str, Callable[..., Any]] = {
        "ours": accumulate,
        "gemm": lambda x, grad, main_grad: torch.mm(grad.t(), x),
        "torch": lambda x, grad, main_grad: main_grad.add_(torch.mm(grad.t(), x)),
    }
    try:
        from fused_weight_gradient_mlp_cuda import wgrad_gemm_accum_fp32
    except ImportError:
        pass
    else:
        contestants["apex"] = wgrad_gemm_accum_fp32
    return Case(
        f"weight gradient {name} {tokens} x {columns} x {rows} bf16 into fp32",
        inputs,
        contestants,
        bytes=2 * tokens * (columns + rows) + 8 * rows * columns,
        flops=2 * tokens * columns * rows,
        target=TARGET,
    )
