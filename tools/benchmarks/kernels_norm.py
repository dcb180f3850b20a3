"""RMSNorm, LayerNorm and add + RMSNorm: ours, Liger's, torch's own and compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

import trivium.kernels.norm  # noqa: F401  (defines the operators)
from tools.benchmarks.kernel_case import Case

EPS = 1e-5
FORWARD = ">= 88 % of copy"
BACKWARD = ">= 80 % of copy; >= 2x Liger"
Calls = dict[str, Callable[..., Any]]


def cases(tiny: bool) -> list[Case]:
    """Llama-3-8B's norms at 8192 tokens, its heads (as q-norm), DeepSeek-V3's hidden size."""
    rows, width, wide, narrow = (256, 512, 1024, 64) if tiny else (8192, 4096, 7168, 128)
    heads = 32 * rows
    return [
        _forward_case(rows, width),
        _backward_case(rows, width),
        _backward_case(rows, wide),
        _backward_case(heads, narrow),
        _add_case(rows, width),
        _layer_case(rows, width),
    ]


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


def _rstd(x: torch.Tensor) -> torch.Tensor:
    return (x.float().square().mean(-1) + EPS).rsqrt()


def _plain(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    wide = x.float()
    return (wide * (wide.square().mean(-1, keepdim=True) + EPS).rsqrt() * weight).to(x.dtype)


def _plain_backward(
    grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, rstd: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    n, scaled = x.float() * rstd.unsqueeze(-1), grad.float() * weight
    grad_x = rstd.unsqueeze(-1) * (scaled - n * (scaled * n).mean(-1, keepdim=True))
    return grad_x.to(x.dtype), (grad.float() * n).sum(0).to(weight.dtype)


def _forward_case(rows: int, width: int) -> Case:
    calls: Calls = {"ours": lambda x, w: torch.ops.trivium.rms_norm(x, w, EPS, False)}
    try:
        from liger_kernel.ops.rms_norm import rms_norm_forward

        calls["liger"] = lambda x, w: rms_norm_forward(x, w, EPS, 0.0, "llama", None)
    except ImportError:
        pass
    calls["torch"] = lambda x, w: F.rms_norm(x, (width,), w, EPS)
    calls["compile"] = torch.compile(_plain, dynamic=False)
    return Case(
        name=f"rms_norm forward {rows} x {width} bf16",
        inputs=lambda: (_random(rows, width), _random(width)),
        contestants=calls,
        bytes=2 * rows * width * 2,
        target=FORWARD,
    )


def _backward_case(rows: int, width: int) -> Case:
    """Each backward pass alone, from what a forward pass keeps: x, the gain and 1 / rms."""
    calls: Calls = {
        "ours": lambda g, x, w, r: torch.ops.trivium.rms_norm_backward(g, x, w, r, False)
    }
    try:
        from liger_kernel.ops.rms_norm import rms_norm_backward
        from liger_kernel.ops.utils import calculate_settings

        block, warps = calculate_settings(width)
        calls["liger"] = lambda g, x, w, r: rms_norm_backward(
            g, x, w, r, 0.0, 0, block, warps, False, None
        )
    except ImportError:
        pass
    calls["torch"] = lambda g, x, w, r: torch.ops.aten._fused_rms_norm_backward(
        g, x, [width], r.unsqueeze(-1), w, [True, True]
    )
    calls["compile"] = torch.compile(_plain_backward, dynamic=False)

    def inputs() -> tuple[torch.Tensor, ...]:
        x = _random(rows, width)
        return _random(rows, width), x, _random(width), _rstd(x)

    return Case(
        name=f"rms_norm backward {rows} x {width} bf16",
        inputs=inputs,
        contestants=calls,
        bytes=3 * rows * width * 2,
        target=BACKWARD,
    )


def _add_case(rows: int, width: int) -> Case:
    """Forward and backward: reads 2 + 3, writes 2 + 1 of [rows, width]."""
    operators = torch.ops.trivium

    def ours(x: Any, residual: Any, w: Any, g: Any, g_sum: Any) -> Any:
        y, total, rstd = operators.add_rms_norm(x, residual, w, EPS, False)
        return y, operators.add_rms_norm_backward(g, g_sum, total, w, rstd, False)

    def eager(x: Any, residual: Any, w: Any, g: Any, g_sum: Any) -> Any:
        total = x + residual
        y, rstd = torch.ops.aten._fused_rms_norm(total, [width], w, EPS)
        grad_x, grad_w = torch.ops.aten._fused_rms_norm_backward(
            g, total, [width], rstd, w, [True, True]
        )
        return y, grad_x + g_sum, grad_w

    def compiled(x: Any, residual: Any, w: Any, g: Any, g_sum: Any) -> Any:
        total = x + residual
        grad_x, grad_w = _plain_backward(g, total, w, _rstd(total))
        return _plain(total, w), total, grad_x + g_sum, grad_w

    calls: Calls = {"ours": ours}
    try:
        from liger_kernel.ops import fused_add_rms_norm as liger

        def theirs(x: Any, residual: Any, w: Any, g: Any, g_sum: Any) -> Any:
            y, total, rstd, *settings, mode = liger.fused_add_rms_norm_forward(
                x, residual, w, EPS, 0.0, "llama"
            )
            backward = liger.fused_add_rms_norm_backward
            return y, backward(g, g_sum, total, w, rstd, 0.0, mode, *settings, False)

        calls["liger"] = theirs
    except ImportError:
        pass
    calls |= {"torch": eager, "compile": torch.compile(compiled, dynamic=False)}
    return Case(
        name=f"add_rms_norm full {rows} x {width} bf16",
        inputs=lambda: (
            *(_random(rows, width) for _ in range(2)),
            _random(width),
            *(_random(rows, width) for _ in range(2)),
        ),
        contestants=calls,
        bytes=8 * rows * width * 2,
        target=BACKWARD,
    )


def _layer_case(rows: int, width: int) -> Case:
    """LayerNorm's backward pass alone."""
    calls: Calls = {
        "ours": lambda g, x, w, b, m, r: torch.ops.trivium.layer_norm_backward(g, x, w, m, r, False)
    }
    try:
        from liger_kernel.ops.layer_norm import layer_norm_backward

        calls["liger"] = layer_norm_backward
    except ImportError:
        pass
    calls["torch"] = lambda g, x, w, b, m, r: torch.ops.aten.native_layer_norm_backward(
        g, x, [width], m.unsqueeze(-1), r.unsqueeze(-1), w, b, [True, True, True]
    )

    def inputs() -> tuple[torch.Tensor, ...]:
        x = _random(rows, width)
        mean, rstd = x.float().mean(-1), (x.float().var(-1, correction=0) + EPS).rsqrt()
        return _random(rows, width), x, _random(width), _random(width), mean, rstd

    return Case(
        name=f"layer_norm backward {rows} x {width} bf16",
        inputs=inputs,
        contestants=calls,
        bytes=3 * rows * width * 2,
        target=BACKWARD,
    )
