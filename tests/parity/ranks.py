"""A run on this rank as a parity test drives it: build, differentiate, step, hand back shards."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from tests.parity.harness import Shard
from trivium.engine.batch import Batch
from trivium.engine.layout import ParallelLayout
from trivium.engine.mesh import Mesh, create_mesh
from trivium.engine.model.gpt import build
from trivium.engine.model.init import _fill_normal, _shards
from trivium.engine.optimizer import apply_update, create_optimizer, wrap
from trivium.engine.schedule import learning_rate
from trivium.engine.schema import RunConfig
from trivium.engine.step import LanguageStep, run_microbatches


class Run:
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
        mask, part = self.config.data.document_mask, (self.mesh.layout.cp, self.mesh.cp_rank)
        batches = [
            Batch.from_arrays(rows, torch.device("cpu"), mask, *part)
            for rows in _micro_batches(self.config, self.mesh, step)
        ]
        return run_microbatches(self.step, self.chunks, batches, self.mesh)

    def take_step(self, step: int) -> dict[str, float]:
        """Update once; return the metrics and the gradient norm."""
        config = self.config
        metrics = self.accumulate(step)
        rate = learning_rate(step, config.train.steps, config.schedule, config.optimizer)
        update = apply_update(self.optimizer, config, rate)
        return metrics | {"grad_norm": update.grad_norm}

    def gradient_norm(self) -> float:
        """Global norm of the accumulated gradient."""
        self.optimizer.prepare_grads()
        return float(self.optimizer.get_grad_norm() or 0.0)

    def gradients(self) -> Iterator[Shard]:
        """main_grad as shards; what ZeRO-1 has reduced into one rank's part is gathered first.

        The run is over after this: parameters are replaced.
        """
        if self.config.parallel.zero:
            for chunk in self.chunks:
                for group in (*chunk.bucket_groups, *chunk.expert_parallel_bucket_groups):
                    over = group.intra_distributed_optimizer_instance_group
                    for bucket in group.buckets:
                        part = bucket.grad_data.view(over.size(), -1)[over.rank()].clone()
                        dist.all_gather_into_tensor(bucket.grad_data, part, group=over)
        for chunk in self.chunks:
            for parameter in chunk.parameters():
                parameter.data = parameter.main_grad
        return self.parameters()

    def parameters(self) -> Iterator[Shard]:
        """The parameters of this rank; under overlapped gathers, after the one that is due."""
        if self.config.parallel.overlap_param_gather:
            for chunk in self.chunks:
                chunk.start_param_sync(force_sync=True)
        chunks = [chunk.module for chunk in self.chunks]
        for shard in _shards(chunks, {"dp_cp_group": self.mesh.groups.dp_cp}):
            values = shard.data.detach().float().clone().numpy()
            lead = (1,) * (len(shard.global_shape) - values.ndim)
            yield Shard(
                shard.key,
                tuple(shard.global_shape),
                tuple(shard.global_offset),
                values.reshape(lead + values.shape),
            )


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
