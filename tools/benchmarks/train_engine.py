"""Trivium itself in the training benchmark: a run's `Trainer`, on made-up samples."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch.distributed as dist

from tools.benchmarks import engine  # first: chooses the device before megatron-core is imported
from tools.benchmarks.train_peer import place, profile, train
from tools.benchmarks.train_work import TrainWork
from trivium.data_pipeline.samples import PackedSamples
from trivium.engine.layout import ParallelLayout
from trivium.engine.mesh import create_mesh
from trivium.engine.schema import RunConfig
from trivium.engine.trainer import Trainer


def ready(name: str) -> None:
    """Everything is imported already."""
    del name


def run_config(work: TrainWork) -> RunConfig:
    """The work as a run."""
    config = engine.run_config(replace(work, profile=False))
    return replace(config, model=replace(config.model, tie_embeddings=work.tie))


def run(name: str, work: TrainWork) -> dict[str, Any]:
    """Train and report."""
    del name
    store = dist.HashStore()
    dist.init_process_group(engine.DEVICE.backend, store=store, rank=0, world_size=1)
    config = run_config(work)
    mesh = create_mesh(ParallelLayout.of(config.parallel, 1), config.seed)
    steps = replace(work, steps=work.steps + work.profile)
    trainer = Trainer(config, mesh, engine.DEVICE, cast(PackedSamples, engine.Samples(steps)))
    place(trainer.modules[0])
    trainer.optimizer.reload_model_params()
    found = train(work, lambda: trainer.train_step()["loss"])
    if work.profile:
        try:
            found["profile"] = profile(trainer.train_step)
        except RuntimeError as error:  # no profiler here: the figures are worth keeping
            found["profile"] = {"error": str(error)}
    dist.destroy_process_group()
    return found
