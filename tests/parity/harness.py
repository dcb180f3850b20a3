"""What a parity test asks of ranks, and how it puts their answers together.

Imports neither torch nor megatron-core: the work is in `tests.parity.ranks`, in the ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trivium.engine.schema import RunConfig


@dataclass(frozen=True)
class Shard:
    """A part of a global tensor: where it begins, and its values (leading axes of length 1)."""

    name: str
    global_shape: tuple[int, ...]
    offset: tuple[int, ...]
    values: np.ndarray


@dataclass(frozen=True)
class Trained:
    """What a rank saw: metrics and gradient norm of every step, and the parameters at the end."""

    history: list[dict[str, float]]
    parameters: list[Shard]


@dataclass(frozen=True)
class Differentiated:
    """Metrics, gradient norm and gradient of one step from rough weights."""

    metrics: dict[str, float]
    gradients: list[Shard]


def initialize(config: RunConfig) -> list[Shard]:
    """In a rank: the parameters of a run before its first step."""
    from tests.parity.ranks import Run

    return list(Run(config).parameters())


def train(config: RunConfig) -> Trained:
    """In a rank: train a resolved run to its last step."""
    from tests.parity.ranks import Run

    run = Run(config)
    history = [run.take_step(step) for step in range(1, config.train.steps + 1)]
    return Trained(history, list(run.parameters()))


def differentiate(config: RunConfig) -> Differentiated:
    """In a rank: one gradient, where nothing is zero, one or symmetric by construction."""
    from tests.parity.ranks import Run

    run = Run(config, rough=True)
    metrics = run.accumulate(1)
    metrics["grad_norm"] = run.gradient_norm()
    return Differentiated(metrics, list(run.gradients()))


def merge(ranks: Sequence[Sequence[Shard]], tolerance: float = 0.0) -> dict[str, np.ndarray]:
    """Global tensors from every rank's shards. Copies must agree, and nothing may be missing."""
    whole: dict[str, np.ndarray] = {}
    filled: dict[str, np.ndarray] = {}
    for rank, shards in enumerate(ranks):
        for shard in shards:
            tensor = whole.setdefault(shard.name, np.zeros(shard.global_shape, np.float32))
            mask = filled.setdefault(shard.name, np.zeros(shard.global_shape, bool))
            here = tuple(
                slice(start, start + size)
                for start, size in zip(shard.offset, shard.values.shape, strict=True)
            )
            if mask[here].all():
                worst = np.abs(tensor[here] - shard.values).max()
                scale = np.abs(tensor[here]).max()
                assert worst <= tolerance * scale, (
                    f"{shard.name}: rank {rank} holds another copy than the ranks before it, "
                    f"by {worst:.1e} of {scale:.1e}"
                )
            tensor[here] = shard.values
            mask[here] = True
    missing = [name for name, mask in filled.items() if not mask.all()]
    assert not missing, f"no rank holds all of {missing}"
    return whole


def difference(
    tensors: dict[str, np.ndarray], reference: dict[str, np.ndarray]
) -> dict[str, float]:
    """For every tensor |a - b| / |b| in the 2-norm; norms below 1e-3 of the largest count as it."""
    assert tensors.keys() == reference.keys(), tensors.keys() ^ reference.keys()
    norms = {name: float(np.linalg.norm(value)) for name, value in reference.items()}
    floor = 1e-3 * max(norms.values())
    return {
        name: float(np.linalg.norm(tensors[name] - value)) / max(norms[name], floor)
        for name, value in reference.items()
    }


def same_on_all_ranks(results: Sequence[Any]) -> Any:
    """The first of what every rank must have reported alike, bit for bit."""
    for rank, result in enumerate(results):
        assert result == results[0], f"rank {rank} reports {result}, rank 0 {results[0]}"
    return results[0]
