"""Ways to make one tensor of several: mathematics only, in float64.

A method is called once for each tensor with those of all models, in the same order, and with the
base model's where it has one. The difference from the base is a task vector.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

_PARALLEL = 1e-6  # sine below which two directions count as one, and slerp is linear


class Method(Protocol):
    """Makes one tensor of those of all models; `name` is the tensor's."""

    def __call__(self, name: str, tensors: Sequence[Tensor], base: Tensor | None) -> Tensor: ...


@dataclass(frozen=True)
class Linear:
    """The mean of the models, weighted."""

    weights: tuple[float, ...]

    def __call__(self, name: str, tensors: Sequence[Tensor], base: Tensor | None) -> Tensor:
        del name, base
        return weighted_sum(tensors, self.weights) / sum(self.weights)


@dataclass(frozen=True)
class Slerp:
    """The point at share `t` of the arc from the first model to the second (Shoemake, 1985).

    The angle is that of the whole tensors; norms go along. Nearly parallel ones: a straight line.
    """

    t: float

    def __call__(self, name: str, tensors: Sequence[Tensor], base: Tensor | None) -> Tensor:
        del name, base
        first, second = tensors
        if self.t in (0.0, 1.0):
            return (second if self.t else first).clone()
        norms = first.norm() * second.norm()
        cosine = (first * second).sum() / norms if norms > 0 else torch.ones((), dtype=first.dtype)
        angle = torch.acos(cosine.clamp(-1, 1))
        sine = torch.sin(angle)
        if sine < _PARALLEL:
            return first + self.t * (second - first)
        return (torch.sin((1 - self.t) * angle) * first + torch.sin(self.t * angle) * second) / sine


@dataclass(frozen=True)
class TaskArithmetic:
    """base + scale x the weighted sum of task vectors (arXiv 2212.04089)."""

    weights: tuple[float, ...]
    scale: float = 1.0

    def __call__(self, name: str, tensors: Sequence[Tensor], base: Tensor | None) -> Tensor:
        del name
        assert base is not None
        tasks = [tensor - base for tensor in tensors]
        return base + self.scale * weighted_sum(tasks, self.weights)


@dataclass(frozen=True)
class Ties:
    """Trim, elect signs, and mean of those that agree (arXiv 2306.01708, algorithm 1).

    density: share of each task vector's elements that are kept, the largest.
    """

    weights: tuple[float, ...]
    density: float
    scale: float = 1.0

    def __call__(self, name: str, tensors: Sequence[Tensor], base: Tensor | None) -> Tensor:
        del name
        assert base is not None
        trimmed = [trim(tensor - base, self.density) for tensor in tensors]
        sign = weighted_sum(trimmed, self.weights).sign()
        total, weight = torch.zeros_like(base), torch.zeros_like(base)
        for task, share in zip(trimmed, self.weights, strict=True):
            agrees = (task.sign() == sign) & (task != 0)
            total += torch.where(agrees, task * share, 0.0)
            weight += agrees * share
        return base + self.scale * torch.where(weight > 0, total / weight.clamp(min=1e-30), 0.0)


@dataclass(frozen=True)
class Dare:
    """Drop elements of task vectors by chance, rescale the rest, and merge by `after`.

    arXiv 2311.03099. What is dropped follows from (seed, model, tensor name) alone.
    """

    density: float  # share that is kept: 1 - p of the paper
    seed: int
    after: Method

    def __call__(self, name: str, tensors: Sequence[Tensor], base: Tensor | None) -> Tensor:
        assert base is not None
        thinned = []
        for index, tensor in enumerate(tensors):
            key = hashlib.sha256(f"{self.seed}/{index}/{name}".encode()).digest()
            chance = torch.Generator().manual_seed(int.from_bytes(key[:8], "little") >> 1)
            keep = torch.rand(tensor.shape, generator=chance, dtype=torch.float64) < self.density
            thinned.append(base + torch.where(keep, (tensor - base) / self.density, 0.0))
        return self.after(name, thinned, base)


def weighted_sum(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Sum of weight x tensor."""
    total = torch.zeros_like(tensors[0])
    for tensor, weight in zip(tensors, weights, strict=True):
        total += weight * tensor
    return total


def trim(task: Tensor, density: float) -> Tensor:
    """The largest elements by magnitude, a share of `density`; 0 in place of the others."""
    keep = round(density * task.numel())
    if keep >= task.numel():
        return task
    out = torch.zeros_like(task)
    if keep:
        chosen = task.abs().flatten().topk(keep).indices
        out.view(-1)[chosen] = task.flatten()[chosen]
    return out
