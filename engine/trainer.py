"""The training loop: data in, updates out, with everything that must happen between steps.

`Trainer` holds one rank's share of a run. It knows nothing of terminals or files but its
checkpoints: what a step was is handed to an observer.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from trivium.data_pipeline.samples import PackedSamples
from trivium.engine.agreement import AgreedError
from trivium.engine.batch import Batch
from trivium.engine.checkpoint import Checkpointer
from trivium.engine.device import Device
from trivium.engine.mesh import Mesh
from trivium.engine.model.gpt import build
from trivium.engine.operators import choose
from trivium.engine.optimizer import create_optimizer, finish_update, launch_update, wrap
from trivium.engine.resilience import StopRequest
from trivium.engine.schedule import learning_rate
from trivium.engine.schema import RunConfig
from trivium.engine.state import TrainState
from trivium.engine.step import LanguageStep, launch_microbatches, read, run_microbatches

Record = dict[str, Any]


class Trainer:
    """A run of language modelling on this rank."""

    def __init__(
        self,
        config: RunConfig,
        mesh: Mesh,
        device: Device,
        train: PackedSamples,
        validation: PackedSamples | None = None,
    ) -> None:
        self.config = config
        self.mesh = mesh
        self.device = device
        self.train_samples = train
        self.validation_samples = validation
        self.kernels = choose(config.kernels, device.is_cuda)  # what runs, in one line
        self.modules = build(config, mesh)
        self.chunks = wrap(self.modules, config, mesh)
        self.optimizer = create_optimizer(self.chunks, config, mesh)
        self.step = LanguageStep(config, mesh)
        self.state = TrainState()
        self.checkpoints = Checkpointer(
            config, mesh, self.chunks, self.optimizer, train.fingerprint
        )

    def fit(
        self,
        observe: Callable[[Record], None],
        stop: StopRequest,
        saving: Callable[[], None] = lambda: None,
    ) -> bool:
        """Train to `train.steps`, or until `stop` is asked for; saves before it returns.

        On every rank, `observe` is called with each step's record and `saving` before each save.
        Returns whether the run is finished. Collective.
        """
        every = self.config.checkpoint.every
        _collect_by_hand(self.config.train.manual_gc_every)
        saved = self.state.step
        while self.state.step < self.config.train.steps:
            observe(self.train_step())
            self.checkpoints.poll()
            stopping = stop.agreed(self.mesh)
            if stopping or (every and self.state.step % every == 0):
                saving()
                self.checkpoints.save(self.state)
                saved = self.state.step
            if stopping:
                self.checkpoints.finish()
                return self.state.step >= self.config.train.steps
            collect = self.config.train.manual_gc_every
            if collect and self.state.step % collect == 0:
                gc.collect()
        if saved != self.state.step:
            saving()
            self.checkpoints.save(self.state)
        self.checkpoints.finish()
        return True

    def train_step(self) -> Record:
        """One optimizer step, whose record is the same on every rank but for memory and time."""
        began = time.perf_counter()
        state, settings = self.state, self.config
        size = global_batch_size(settings, state.sequences)
        batches = self._batches(self.train_samples, state.sequences, size)
        for chunk in self.chunks:
            chunk.zero_grad_buffer()
        self.optimizer.zero_grad()
        losses = launch_microbatches(self.step, self.chunks, batches, self.mesh)
        rate = learning_rate(
            state.step + 1, settings.train.steps, settings.schedule, settings.optimizer
        )
        launched = launch_update(self.optimizer, settings, rate, losses["loss"])
        norm, _, refused = launched.verdict
        values = read(losses | {"grad_norm": norm, "refused": refused})  # the step's one wait
        update = finish_update(
            self.optimizer, launched, values.pop("grad_norm"), bool(values.pop("refused"))
        )
        self._count(size, update.applied, update.loss_scale, values["loss"], update.grad_norm)
        seconds = time.perf_counter() - began
        tokens = size * settings.data.sequence_length
        record: Record = {"step": state.step, "tokens": state.tokens, **values}
        record |= {"grad_norm": update.grad_norm, "lr": rate}
        if not update.applied:
            record["skipped"] = True
        if settings.train.dtype == "fp16":
            record["loss_scale"] = update.loss_scale
        every = settings.validation.every
        last = state.step == settings.train.steps
        if settings.validation.batches and (last or (every and state.step % every == 0)):
            record |= self.validate()
        record |= {"tokens_per_s": tokens / seconds, "step_seconds": seconds}
        record["memory"] = self.device.peak_memory()
        return record

    def validate(self) -> Record:
        """Mean loss per token of the first `validation.batches` global batches of held-out text."""
        if self.validation_samples is None:
            return {}
        size = self.config.train.global_batch
        total, modes = 0.0, [chunk.training for chunk in self.chunks]
        for chunk in self.chunks:
            chunk.eval()
        with torch.no_grad():
            for index in range(self.config.validation.batches):
                batches = self._batches(self.validation_samples, index * size, size)
                losses = run_microbatches(self.step, self.chunks, batches, self.mesh, True)
                total += losses["loss"]
        for chunk, mode in zip(self.chunks, modes, strict=True):
            chunk.train(mode)
        loss = total / self.config.validation.batches
        return {"validation_loss": loss, "validation_perplexity": math.exp(min(loss, 700.0))}

    def _batches(self, samples: PackedSamples, first: int, size: int) -> list[Batch]:
        """This rank's micro-batches of the global batch of `size` rows from sample `first` on.

        Micro-batch i of the step goes to data-parallel rank i mod dp: micro-batches hold the same
        rows under every layout.
        """
        rows, ranks = self.config.train.micro_batch, self.mesh.layout.dp
        starts = range(self.mesh.dp_rank * rows, size, ranks * rows)
        batches = []
        for start in starts:
            arrays = samples.gather(np.arange(first + start, first + start + rows))
            mask = self.config.data.document_mask
            part = self.mesh.layout.cp, self.mesh.cp_rank
            batches.append(Batch.from_arrays(arrays, self.device.torch_device, mask, *part))
        return batches

    def _count(
        self, size: int, applied: bool, loss_scale: float, loss: float, grad_norm: float
    ) -> None:
        state, settings = self.state, self.config
        state.step += 1
        state.sequences += size
        state.tokens += size * settings.data.sequence_length
        if applied:
            state.updates += 1
            state.bad_streak = 0
            return
        state.bad_steps += 1
        state.bad_streak += 1
        limit = settings.train.max_bad_steps
        if state.bad_streak >= limit and (settings.train.dtype != "fp16" or loss_scale <= 1.0):
            raise AgreedError(
                f"step {state.step}: loss {loss:.4g}, gradient norm {grad_norm:.4g}: not finite "
                f"for {state.bad_streak} steps in a row (train.max_bad_steps {limit}); lower "
                "optimizer.lr or lengthen schedule.warmup_steps, and resume from the last "
                "checkpoint"
            )


def global_batch_size(config: RunConfig, sequences: int) -> int:
    """Sequences of the next step, when `sequences` have been consumed (batch ramp-up)."""
    train = config.train
    if train.ramp_up is None:
        return train.global_batch
    start, increment, over = train.ramp_up
    stages = max(1, (train.global_batch - start) // increment)
    return min(train.global_batch, start + increment * (sequences * stages // max(1, over)))


def _collect_by_hand(every: int) -> None:
    """Garbage collection at the same step on every rank: one rank's pause stops all of them."""
    if every:
        gc.disable()
        gc.collect()
