"""The feed-forward of a rank's experts: at once, and one after another as megatron-core does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tools.benchmarks.kernel_case import Case
from trivium.kernels import grouped_mm
from trivium.kernels.activation import gated_activation
from trivium.kernels.grouped_mm import (
    Groups,
    add_weight_gradients,
    grouped_input_gradient,
    grouped_linear,
)

TARGET = ">= 1.2x the loop, >= 550 TFLOP/s DeepSeek-V3 shapes"


@dataclass(frozen=True)
class Shape:
    """Experts of one rank and the tokens sent to them."""

    name: str
    tokens: int
    hidden: int
    width: int
    experts: int

    @property
    def counts(self) -> list[int]:
        """From 0.4 to 1.6 times the mean, and the first expert idle."""
        share = torch.linspace(0.4, 1.6, self.experts)
        share[0] = 0
        counts: list[int] = (share / share.sum() * self.tokens).long().tolist()
        counts[-1] += self.tokens - sum(counts)
        return counts

    @property
    def flops(self) -> int:
        """Of one forward: two products, the first twice as wide."""
        return 6 * self.tokens * self.hidden * self.width

    @property
    def shapes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Of an expert's two weights."""
        return (2 * self.width, self.hidden), (self.hidden, self.width)

    def groups(self) -> Groups:
        """The counts, on the host and the device."""
        ends = torch.tensor(self.counts).cumsum(0, dtype=torch.int32)
        return Groups(ends.to(device()), self.counts)

    def weights(self, which: int) -> list[Tensor]:
        """One of the two weights of every expert, side by side."""
        return list(normal(self.experts, *self.shapes[which]).mul_(self.shapes[which][1] ** -0.5))

    def sums(self, which: int) -> list[Tensor]:
        """fp32 tensors that gradients are added to, side by side."""
        return list(torch.zeros(self.experts, *self.shapes[which], device=device()))

    def inputs(self) -> tuple[Any, ...]:
        """x, probs, output gradient, groups, both weights of each expert, their fp32 gradients."""
        x, grad = normal(self.tokens, self.hidden), normal(self.tokens, self.hidden)
        probs = torch.rand(self.tokens, device=device())
        weights, sums = ([make(0), make(1)] for make in (self.weights, self.sums))
        return x, probs, grad, self.groups(), weights, sums

    def product(self) -> tuple[Any, ...]:
        """x, groups, first weights."""
        return normal(self.tokens, self.hidden), self.groups(), self.weights(0)

    def gradient(self) -> tuple[Any, ...]:
        """Output gradient and input of the second product, groups, fp32 gradients."""
        inner = normal(self.tokens, self.width)
        return normal(self.tokens, self.hidden), inner, self.groups(), self.sums(1)


def device() -> torch.device:
    """Where it runs."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def normal(*shape: int) -> Tensor:
    """bf16 of variance 1."""
    return torch.randn(*shape, device=device(), dtype=torch.bfloat16)


DEEPSEEK = Shape("DeepSeek-V3, 8 experts", 65536, 7168, 2048, 8)
MANY = Shape("64 experts", 16384, 2048, 768, 64)  # as Qwen3-30B-A3B on two ranks
TINY = Shape("tiny", 512, 256, 128, 4)


def forward(
    x: Tensor, probs: Tensor, grad: Tensor, groups: Groups, weights: Any, sums: Any
) -> Tensor:
    """As `engine.model.experts` does it."""
    del grad, sums
    inner = gated_activation(grouped_linear(x, groups, weights[0]), "silu", probs)
    return grouped_linear(inner, groups, weights[1])


def full(
    x: Tensor, probs: Tensor, grad: Tensor, groups: Groups, weights: Any, sums: Any
) -> tuple[Tensor, ...]:
    """Forward, then gradients; those of the weights added to fp32 sums."""
    wide = grouped_linear(x, groups, weights[0])
    inner = gated_activation(wide, "silu", probs)
    out = grouped_linear(inner, groups, weights[1])
    grad_inner = grouped_input_gradient(grad, groups, weights[1])
    add_weight_gradients(grad, inner, groups, sums[1])
    grad_wide, grad_probs = torch.ops.trivium.gated_activation_backward(grad_inner, wide, probs, 0)
    add_weight_gradients(grad_wide, x, groups, sums[0])
    return out, grouped_input_gradient(grad_wide, groups, weights[0]), grad_probs


def loop_forward(
    x: Tensor, probs: Tensor, grad: Tensor, groups: Groups, weights: Any, sums: Any
) -> Tensor:
    """`SequentialMLP` with megatron-core's local modules, its process groups left out."""
    del grad, sums
    outputs = []
    assert groups.counts is not None
    parts = zip(x.split(groups.counts), probs.split(groups.counts), *weights, strict=True)
    for rows, scale, up, down in parts:
        gate, value = F.linear(rows, up).chunk(2, dim=-1)
        inner = F.silu(gate) * value
        inner = (inner * scale.unsqueeze(-1)).to(inner.dtype)
        outputs.append(F.linear(inner, down))
    return torch.cat(outputs)


def loop_full(
    x: Tensor, probs: Tensor, grad: Tensor, groups: Groups, weights: Any, sums: Any
) -> tuple[Tensor, ...]:
    """The same by autograd; megatron-core's hooks then add each gradient to `main_grad`."""
    x, probs = x.detach().requires_grad_(), probs.detach().requires_grad_()
    leaves = [[weight.detach().requires_grad_() for weight in part] for part in weights]
    out = loop_forward(x, probs, grad, groups, leaves, sums)
    grad_x, grad_probs, *rest = torch.autograd.grad(out, [x, probs, *leaves[0], *leaves[1]], grad)
    for total, gradient in zip((*sums[0], *sums[1]), rest, strict=True):
        total.add_(gradient)
    return out, grad_x, grad_probs


def cublas(x: Tensor, groups: Groups, weights: Any) -> Tensor:
    """A product each, by the host's counts."""
    return grouped_mm._mm(x, weights, None, groups.counts, True)


def one_launch(x: Tensor, groups: Groups, weights: Any) -> Tensor:
    """torch's grouped kernel."""
    stack = grouped_mm.stacked(weights)
    assert stack is not None
    assert groups.offsets is not None
    return grouped_mm.grouped_kernel(x, stack, groups.offsets, True)


def cublas_gradient(grad: Tensor, x: Tensor, groups: Groups, sums: Any) -> None:
    """A product each, added as it is written."""
    grouped_mm._weight_add(grad, x, sums, None, groups.counts)


def one_launch_gradient(grad: Tensor, x: Tensor, groups: Groups, sums: Any) -> None:
    """torch's grouped kernel, then the addition."""
    total = grouped_mm.stacked(sums)
    assert total is not None
    assert groups.offsets is not None
    total.add_(grouped_mm.grouped_kernel_weight(grad, x, groups.offsets))


def cases(tiny: bool) -> list[Case]:
    """Forward and full at both sizes; the two ways apart, which set the thresholds."""
    made = []
    for shape in (TINY,) if tiny else (DEEPSEEK, MANY):
        name = f"{shape.name}, {shape.tokens} x {shape.hidden}, F {shape.width} bf16"
        target = TARGET if shape is DEEPSEEK else ""
        whole = {
            "experts forward": (forward, loop_forward, 1),
            "experts full": (full, loop_full, 3),
        }
        made += [
            Case(
                f"{which} {name}",
                shape.inputs,
                {"ours": ours, "loop": loop},
                flops=times * shape.flops,
                target=target,
            )
            for which, (ours, loop, times) in whole.items()
        ]
        made.append(
            Case(
                f"experts product {name}",
                shape.product,
                {"ours": grouped_linear, "cublas": cublas, "torch": one_launch},
                flops=shape.flops * 2 // 3,
            )
        )
    made.append(
        Case(
            f"experts weight gradient {name}",
            shape.gradient,
            {
                "ours": add_weight_gradients,
                "cublas": cublas_gradient,
                "torch": one_launch_gradient,
            },
            flops=shape.flops // 3,
        )
    )
    return made
