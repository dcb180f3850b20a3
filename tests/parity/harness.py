"""What a rank does in a parity test: build, train or differentiate, and hand back its shards.

Everything here runs in ranks of `tests.distributed.pool`; `merge` and `difference` run in pytest.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from trivium.engine.batch import Batch
from trivium.engine.layout import ParallelLayout
from trivium.engine.mesh import Mesh, create_mesh
from trivium.engine.model.gpt import build
from trivium.engine.model.init import _fill_normal, _shards
from trivium.engine.optimizer import apply_update, create_optimizer, wrap
from trivium.engine.schedule import learning_rate
from trivium.engine.schema import RunConfig
from trivium.engine.step import LanguageStep, run_microbatches


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


def train(config: RunConfig) -> Trained:
    """Train a resolved run on this rank, to its last step."""
    run = _Run(config)
    history = []
    for step in range(1, config.train.steps + 1):
        metrics = run.accumulate(step)
        rate = learning_rate(step, config.train.steps, config.schedule, config.optimizer)
        update = apply_update(run.optimizer, config, rate, finite_loss=True)
        history.append(metrics | {"grad_norm": update.grad_norm})
    return Trained(history, list(_parameters(run)))


@dataclass(frozen=True)
class Differentiated:
    """Metrics, gradient norm and gradient of one step from rough weights."""

    metrics: dict[str, float]
    gradients: list[Shard]


def differentiate(config: RunConfig) -> Differentiated:
    """The gradient of one global batch where nothing is zero, one or symmetric by construction."""
    run = _Run(config, rough=True)
    metrics = run.accumulate(1)
    run.optimizer.prepare_grads()
    metrics["grad_norm"] = float(run.optimizer.get_grad_norm() or 0.0)
    return Differentiated(metrics, list(_gradients(run)))


class _Run:
    """Model, optimizer and step of a resolved run on this rank."""

    def __init__(self, config: RunConfig, rough: bool = False) -> None:
        self.config = config
        layout = ParallelLayout.of(config.parallel, dist.get_world_size())
        self.mesh = create_mesh(layout, config.seed)
        chunks = build(config, self.mesh)
        if rough:
            _roughen(chunks, config, self.mesh)
        self.chunks = wrap(chunks, config, self.mesh)
        self.optimizer = create_optimizer(self.chunks, config, self.mesh)
        self.step = LanguageStep(config, self.mesh)

    def accumulate(self, step: int) -> dict[str, float]:
        """Leave the gradient of global batch `step` in main_grad; return the metrics."""
        for chunk in self.chunks:
            chunk.zero_grad_buffer()
        self.optimizer.zero_grad()
        batches = [
            Batch.from_arrays(rows, torch.device("cpu"), self.config.data.document_mask)
            for rows in _micro_batches(self.config, self.mesh, step)
        ]
        return run_microbatches(self.step, self.chunks, batches, self.mesh)


def _roughen(chunks: Sequence[Any], config: RunConfig, mesh: Mesh) -> None:
    """Weights with softmaxes that are not flat, biases that are not 0, gains that are not 1."""
    centre = 0.0 if config.model.norm_zero_centered else 1.0
    with torch.no_grad():
        for shard in _shards(chunks, {"dp_cp_group": mesh.groups.dp_cp}):
            vector = len(shard.data.shape) == 1
            _fill_normal(shard, config.seed + 1, 0.3 if vector else 0.1)
            if vector and shard.key.endswith("weight"):
                shard.data.add_(centre)


def _micro_batches(config: RunConfig, mesh: Mesh, step: int) -> Iterator[dict[str, np.ndarray]]:
    """This rank's rows of global batch `step`: a page of text, whose spaces carry no loss.

    Lines are documents under a document mask.
    """
    batch, size, length = (
        config.train.global_batch,
        config.train.micro_batch,
        config.data.sequence_length,
    )
    text = np.frombuffer(inspect.getsource(textwrap).encode(), dtype=np.uint8).astype(np.int64)
    start = (step - 1) * batch * length
    rows = text[(start + np.arange(batch * length + 1)) % len(text)] % (
        config.model.vocab_size or 0
    )
    tokens = rows[:-1].reshape(batch, length)
    lines = np.cumsum(tokens == ord("\n"), axis=1).astype(np.int32)
    positions = np.tile(np.arange(length), (batch, 1))
    if config.data.document_mask:
        begins = np.where(np.diff(lines, axis=1, prepend=lines[:, :1]), positions, 0)
        positions = positions - np.maximum.accumulate(begins, axis=1)
    arrays = {
        "tokens": tokens,
        "labels": rows[1:].reshape(batch, length),
        "loss_mask": (tokens != ord(" ")).astype(np.float32),
        "position_ids": positions,
        "document_ids": lines,
    }
    dp = mesh.layout.dp
    for index in range(batch // (size * dp)):
        first = (index * dp + mesh.dp_rank) * size
        yield {name: array[first : first + size].copy() for name, array in arrays.items()}


def _gradients(run: _Run) -> Iterator[Shard]:
    """main_grad as shards; what ZeRO-1 has reduced into one rank's part is gathered first."""
    if run.config.parallel.zero:
        for chunk in run.chunks:
            for group in (*chunk.bucket_groups, *chunk.expert_parallel_bucket_groups):
                over = group.intra_distributed_optimizer_instance_group
                for bucket in group.buckets:
                    part = bucket.grad_data.view(over.size(), -1)[over.rank()].clone()
                    dist.all_gather_into_tensor(bucket.grad_data, part, group=over)
    for chunk in run.chunks:
        for parameter in chunk.parameters():
            parameter.data = parameter.main_grad.clone()
    yield from _parameters(run)


def _parameters(run: _Run) -> Iterator[Shard]:
    chunks = [chunk.module for chunk in run.chunks]
    for shard in _shards(chunks, {"dp_cp_group": run.mesh.groups.dp_cp}):
        values = shard.data.detach().float().numpy()
        lead = len(shard.global_shape) - values.ndim
        yield Shard(
            shard.key,
            tuple(shard.global_shape),
            tuple(shard.global_offset),
            values.reshape((1,) * lead + values.shape),
        )


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
    """For every tensor |a - b| / |b| in the 2-norm; a norm below 1e-3 of the largest counts as that."""
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
