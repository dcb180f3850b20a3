"""A run, from its configuration to its report: what every rank does once the world is joined."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch.distributed as dist

from trivium.data_pipeline.config_tree import dump_yaml
from trivium.data_pipeline.errors import InputError
from trivium.data_pipeline.files import write_atomic
from trivium.data_pipeline.tokenizer import Tokenizer
from trivium.engine import checkpoint_folder
from trivium.engine.agreement import on_first
from trivium.engine.corpus import open_corpus
from trivium.engine.device import Device
from trivium.engine.folders import export_folder, start_from_folder
from trivium.engine.generation.generator import Generator, Limits
from trivium.engine.generation.request import Request, Sampling
from trivium.engine.layout import ParallelLayout
from trivium.engine.mesh import create_mesh
from trivium.engine.observer import Observer, Silent, measure_utilization
from trivium.engine.resilience import StopRequest
from trivium.engine.schema import RunConfig
from trivium.engine.trainer import Trainer


def run(config: RunConfig, place: Device) -> None:
    """Train as `config` (resolved, checked) says. Collective over the world."""
    first = dist.get_rank() == 0
    corpus = open_corpus(config)
    vocab_size = config.model.vocab_size or corpus.tokenizer.vocab_size
    config = replace(config, model=replace(config.model, vocab_size=vocab_size))
    layout = ParallelLayout.of(config.parallel, dist.get_world_size())
    mesh = create_mesh(layout, config.seed, config.parallel.timeout_minutes)
    on_first(partial(_check_folder, config))
    with ExitStack() as stack:
        stop = stack.enter_context(StopRequest())
        trainer = Trainer(config, mesh, place, corpus.train, corpus.validation)
        start = _starting_point(config)
        if start is not None:
            path, weights_only = start
            trainer.state = trainer.checkpoints.load(path, weights_only)
        elif config.model.from_hf is not None:
            start_from_folder(config, trainer)
        on_first(partial(_write_config, config))
        utilization = measure_utilization(config, place)
        observer: Observer | Silent = Silent()
        if first:
            origin = None if start is None else start[0]
            step = trainer.state.step
            observer = stack.enter_context(
                Observer(config, place, corpus, utilization, step, origin, trainer.kernels)
            )
        writer = partial(_write_samples, config, trainer, corpus.tokenizer, observer)
        every = config.sample.every

        def observe(record: dict[str, Any]) -> None:
            observer.record(record)
            if every and record["step"] % every == 0 and record["step"] < config.train.steps:
                writer()

        finished = trainer.fit(observe, stop, observer.saving)
        if finished and config.sample.prompts:
            writer()
        if finished and config.export.hf:
            export_folder(config, trainer, corpus.tokenizer)
        observer.finish(finished)


def _check_folder(config: RunConfig) -> None:
    """Refuse to begin anew where a run already is."""
    folder = Path(config.run.dir)
    if not config.run.resume and checkpoint_folder.complete(folder / "checkpoints"):
        raise InputError(
            f"run.dir {folder}: holds checkpoints of an earlier run and run.resume is false; "
            "give another run.dir, remove it, or set run.resume=true"
        )


def _write_config(config: RunConfig) -> None:
    """config.yaml says how the run goes on from here: written once that is certain."""
    write_atomic(Path(config.run.dir) / "config.yaml", dump_yaml(config).encode())


def _starting_point(config: RunConfig) -> tuple[Path, bool] | None:
    """(checkpoint, weights only) to start from: the run's own newest, else `checkpoint.load`."""

    def look() -> tuple[Path, bool] | None:
        own = checkpoint_folder.complete(Path(config.run.dir) / "checkpoints")
        if own and config.run.resume:
            return own[-1], False
        if config.checkpoint.load is not None:
            found = checkpoint_folder.find(config.checkpoint.load)
            return found, not config.checkpoint.load_optimizer
        return None

    return on_first(look)


def _write_samples(
    config: RunConfig, trainer: Trainer, tokenizer: Tokenizer, observer: Observer | Silent
) -> None:
    """Continue every prompt with the model as it stands. Collective."""
    settings = config.sample
    sampling = Sampling(
        temperature=settings.temperature, top_k=settings.top_k, top_p=settings.top_p
    )
    vocab_size, longest = config.model.vocab_size, config.model.max_position
    assert vocab_size is not None
    assert longest is not None
    requests = []
    for index, prompt in enumerate(settings.prompts):
        ids = tokenizer.encode(prompt) or [tokenizer.eod_id]
        ids = ids[-max(1, longest - settings.max_new_tokens) :]
        requests.append(
            Request(
                prompt=tuple(ids),
                max_new_tokens=min(settings.max_new_tokens, longest - len(ids)),
                sampling=sampling,
                seed=config.seed + trainer.state.step * 1000 + index,
                stop_ids=frozenset({tokenizer.eod_id}),
            )
        )
    limits = Limits(max_requests=min(8, len(requests)), max_length=longest)
    drawn = min(vocab_size, tokenizer.vocab_size)
    parts = trainer.modules, trainer.mesh, tokenizer, drawn, limits
    answers = Generator(*parts).run(requests)
    for prompt, answer in zip(settings.prompts, answers, strict=True):
        observer.sample(trainer.state.step, prompt, answer.text)
