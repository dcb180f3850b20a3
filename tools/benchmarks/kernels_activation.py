"""SwiGLU and GeGLU: ours, Liger's, torch eager and compiled, megatron-core's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from tools.benchmarks.kernel_case import Case
from trivium.kernels.activation import gated_activation

TARGET = ">= 90 % of copy forward, 88 % backward; >= 1.3x Liger forward + backward"
Pass = Callable[..., torch.Tensor]


def cases(tiny: bool) -> list[Case]:
    """Llama-3-8B's feed-forward at 8192 tokens, and DeepSeek-V3's experts with probabilities."""
    tokens, width = (256, 512) if tiny else (8192, 14336)
    routed, expert = (512, 256) if tiny else (65536, 2048)
    size = tokens * width * 2  # bytes of one bf16 [tokens, F]
    swiglu, geglu = _contestants("silu"), _contestants("gelu")
    shape = f"{tokens} x 2*{width} bf16"

    def made() -> tuple[torch.Tensor, torch.Tensor]:
        return _random(tokens, 2 * width), _random(tokens, width)

    return [
        Case(
            name=f"swiglu forward {shape}",
            inputs=lambda: made()[:1],
            contestants={name: _no_grad(f) for name, f in swiglu.items()},
            bytes=3 * size,
            target=TARGET,
        ),
        Case(
            name=f"swiglu backward {shape}",
            inputs=lambda: _after_forward(*made(), swiglu),
            contestants={name: _backward_of(place) for place, name in enumerate(swiglu, start=2)},
            bytes=5 * size,
            target=TARGET,
        ),
        Case(
            name=f"swiglu full {shape}",
            inputs=made,
            contestants={name: _full(f) for name, f in swiglu.items()},
            bytes=8 * size,
            target=TARGET,
        ),
        Case(
            name=f"geglu full {shape}",
            inputs=made,
            contestants={name: _full(f) for name, f in geglu.items()},
            bytes=8 * size,
            target=TARGET,
        ),
        Case(
            name=f"swiglu with probabilities, full {routed} x 2*{expert} bf16",
            inputs=lambda: (
                _random(routed, 2 * expert),
                _random(routed, expert),
                torch.rand(routed, device="cuda"),
            ),
            contestants={name: _full(f) for name, f in _weighted().items()},
            bytes=8 * routed * expert * 2,
            target=TARGET,
        ),
    ]


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


def _contestants(kind: str) -> dict[str, Pass]:
    acts: dict[str, Pass] = {"silu": F.silu, "gelu": F.gelu}
    act = acts[kind]

    def eager(x: torch.Tensor) -> torch.Tensor:
        gate, value = x.chunk(2, dim=-1)
        return act(gate) * value

    found: dict[str, Pass] = {"ours": lambda x: gated_activation(x, kind)}
    try:
        from liger_kernel.ops.geglu import LigerGELUMulFunction
        from liger_kernel.ops.swiglu import LigerFusedGateUpSiLUMulFunction, LigerSiLUMulFunction

        if kind == "silu":
            found["liger"] = lambda x: LigerFusedGateUpSiLUMulFunction.apply(x)
            found["liger halves"] = lambda x: LigerSiLUMulFunction.apply(*x.chunk(2, dim=-1))
        else:  # the approximation by tanh
            found["liger"] = lambda x: LigerGELUMulFunction.apply(*x.chunk(2, dim=-1))
    except ImportError:
        pass
    found["torch"] = eager
    found["compile"] = torch.compile(eager, dynamic=False)
    return found


def _weighted() -> dict[str, Pass]:
    def eager(x: torch.Tensor, probs: torch.Tensor) -> torch.Tensor:
        gate, value = x.chunk(2, dim=-1)
        return (F.silu(gate) * value * probs.unsqueeze(-1)).to(x.dtype)

    found: dict[str, Pass] = {"ours": lambda x, probs: gated_activation(x, "silu", probs)}
    found["torch"] = eager
    found["compile"] = torch.compile(eager, dynamic=False)
    try:
        from megatron.core.fusions.fused_bias_swiglu import weighted_bias_swiglu_impl

        found["megatron"] = lambda x, probs: weighted_bias_swiglu_impl(x, None, probs.unsqueeze(-1))
    except ImportError:
        pass
    return found


def _no_grad(forward: Pass) -> Callable[..., Any]:
    def run(x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return forward(x)

    return run


def _full(forward: Pass) -> Callable[..., Any]:
    """Forward and backward, for inputs and, second, the gradient of the output."""

    def run(x: torch.Tensor, grad: torch.Tensor, *rest: torch.Tensor) -> Any:
        leaves = [t.detach().requires_grad_() for t in (x, *rest)]
        return torch.autograd.grad(forward(*leaves), leaves, grad)

    return run


def _after_forward(
    x: torch.Tensor, grad: torch.Tensor, contestants: dict[str, Pass]
) -> tuple[torch.Tensor, ...]:
    """x, the gradient, and each contestant's output with its graph."""
    x.requires_grad_()
    return x, grad, *(forward(x) for forward in contestants.values())


def _backward_of(place: int) -> Callable[..., Any]:
    def run(*inputs: torch.Tensor) -> Any:
        return torch.autograd.grad(inputs[place], inputs[0], inputs[1], retain_graph=True)

    return run
