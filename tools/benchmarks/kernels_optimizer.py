"""The update of the weights: AdamW, the gradient's norm, and both as a step has them.

The tensors are those of two layers of Llama 3 8B: 436 million weights, fp32, with fp32 gradients
and a bf16 copy. Peers: torch's fused AdamW (what `AdamW(fused=True)` runs, less its Python), apex
where installed, and torch's own norm, clipping and copies around them. Ours takes its verdict
(clipping factor, finite or not) from the device; torch's clipping does too, but cannot refuse.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from tools.benchmarks.kernel_case import Case
from trivium.kernels.adamw import adamw_
from trivium.kernels.multi_tensor import judge, scale_, squared_sum

LAYER = [(6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336), (4096,), (4096,)]
TINY = [(64, 32), (48,)]
SETTINGS: dict[str, Any] = {
    "lr": 1e-4,
    "beta1": 0.9,
    "beta2": 0.95,
    "eps": 1e-8,
    "weight_decay": 0.1,
}
STEP = 7
TARGET = ">= 90 % of copy"

Tensors = list[torch.Tensor]


def cases(tiny: bool) -> list[Case]:
    """AdamW with and without the copy and in few bits, norm, scaling, a step's whole update."""
    shapes = TINY if tiny else LAYER * 2
    count = sum(map(math.prod, shapes))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size = f"{count / 1e6:.0f}M"

    def state(gradient: torch.dtype, moment: torch.dtype) -> Callable[[], tuple[Any, ...]]:
        def inputs() -> tuple[Any, ...]:
            params = _normal(shapes, torch.float32, device)
            grads = _normal(shapes, gradient, device)
            firsts = _normal(shapes, moment, device)
            seconds = [first.abs() for first in firsts]
            copies = [param.bfloat16() for param in params]
            verdict = torch.tensor([2.0, 0.5, 0.0], device=device)
            step = [torch.tensor(float(STEP), device=device)] * len(params)
            return params, grads, firsts, seconds, copies, verdict, step

        return inputs

    def gradients() -> tuple[Tensors, torch.Tensor]:
        return _normal(shapes, torch.float32, device), torch.full((1,), 0.999, device=device)

    full = state(torch.float32, torch.float32)
    small = state(torch.bfloat16, torch.bfloat16)
    step = {"ours": _ours_step, "torch": _torch_step}
    update = {"ours": _ours_copy, "torch": _torch_copy}
    plain = {"ours": _ours, "torch": _torch}
    norm = {"ours": _ours_norm, "torch": _torch_norm}
    apex = _apex(device)
    if apex is not None:
        plain["apex"] = apex
    return [
        Case(f"adamw and bf16 copy {size}", full, update, 30 * count, target=TARGET),
        Case(f"adamw {size}", full, plain, 28 * count, target=TARGET),
        Case(f"norm, clip, adamw, copy {size}", full, step, 34 * count, target=TARGET),
        Case(f"norm {size}", gradients, norm, 4 * count, target=TARGET),
        Case(f"adamw, bf16 moments and gradients {size}", small, {"ours": _ours_copy}, 20 * count),
        Case(
            f"scale {size}",
            gradients,
            {"ours": scale_, "torch": lambda grads, by: torch._foreach_mul_(grads, by[0])},
            8 * count,
            target=TARGET,
        ),
    ]


def _normal(shapes: Sequence[tuple[int, ...]], dtype: torch.dtype, device: torch.device) -> Tensors:
    return [torch.randn(shape, dtype=dtype, device=device) for shape in shapes]


def _ours(p: Tensors, g: Tensors, m: Tensors, v: Tensors, *rest: Any) -> None:
    del rest
    adamw_(p, g, m, v, step=STEP, **SETTINGS)


def _ours_copy(p: Tensors, g: Tensors, m: Tensors, v: Tensors, c: Tensors, *rest: Any) -> None:
    adamw_(p, g, m, v, copies=c, verdict=rest[0], step=STEP, **SETTINGS)


def _ours_step(p: Tensors, g: Tensors, m: Tensors, v: Tensors, c: Tensors, *rest: Any) -> None:
    verdict = judge(squared_sum(g), max_norm=1.0)
    adamw_(p, g, m, v, copies=c, verdict=verdict, step=STEP, **SETTINGS)


def _torch(p: Tensors, g: Tensors, m: Tensors, v: Tensors, *rest: Any) -> None:
    step = rest[-1]
    torch._fused_adamw_(p, g, m, v, [], step, amsgrad=False, maximize=False, **SETTINGS)


def _torch_copy(p: Tensors, g: Tensors, m: Tensors, v: Tensors, c: Tensors, *rest: Any) -> None:
    _torch(p, g, m, v, *rest)
    torch._foreach_copy_(c, p)


def _torch_step(p: Tensors, g: Tensors, m: Tensors, v: Tensors, c: Tensors, *rest: Any) -> None:
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(g)))
    torch._foreach_mul_(g, (1.0 / (norm + 1e-6)).clamp(max=1.0))
    _torch_copy(p, g, m, v, c, *rest)


def _ours_norm(g: Tensors, factor: torch.Tensor) -> torch.Tensor:
    del factor
    return judge(squared_sum(g), max_norm=1.0)


def _torch_norm(g: Tensors, factor: torch.Tensor) -> torch.Tensor:
    del factor
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(g)))


def _apex(device: torch.device) -> Callable[..., None] | None:
    try:
        from amp_C import multi_tensor_adam
        from apex.multi_tensor_apply import multi_tensor_applier
    except ImportError:
        return None
    nothing = torch.zeros(1, dtype=torch.int, device=device)
    s = SETTINGS

    def update(p: Tensors, g: Tensors, m: Tensors, v: Tensors, *rest: Any) -> None:
        del rest
        numbers = (s["lr"], s["beta1"], s["beta2"], s["eps"], STEP, 1, True, s["weight_decay"])
        multi_tensor_applier(multi_tensor_adam, nothing, [g, p, m, v], *numbers)

    return update
