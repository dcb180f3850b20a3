"""Where a run's records go: metrics.jsonl always, TensorBoard and Weights & Biases when asked for.

A sink takes every record and may fail without harm to the run: what fails says so once and is left
out from then on. metrics.jsonl is the exception, for a resume depends on it. Only rank 0 has sinks.
"""

from __future__ import annotations

import importlib
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from trivium.data_pipeline.errors import InputError
from trivium.data_pipeline.files import write_atomic
from trivium.engine.metrics import FILE_NAME, TIMING_FIELDS, MetricsLog, Record
from trivium.engine.schema import TrackConfig

logger = logging.getLogger(__name__)

Warn = Callable[[str], None]


class Sink(Protocol):
    """Somewhere that records go."""

    def log(self, record: Record) -> None:
        """Take one step's record."""

    def close(self) -> None:
        """Write what is held back, and let go."""


class Sinks:
    """metrics.jsonl first, then the others; one that fails is dropped with one line."""

    def __init__(self, metrics: MetricsLog, others: Sequence[Sink] = (), warn: Warn | None = None):
        self.metrics = metrics
        self._others = list(others)
        self._warn = warn or logger.warning

    def log(self, record: Record) -> None:
        """Hand a record to every sink. Raises InputError when metrics.jsonl cannot be written."""
        self.metrics.log(record)
        for sink in list(self._others):
            try:
                sink.log(record)
            except Exception as error:
                self._drop(sink, error)

    def close(self) -> None:
        for sink in list(self._others):
            try:
                sink.close()
            except Exception as error:
                self._drop(sink, error)
        self.metrics.close()

    def _drop(self, sink: Sink, error: Exception) -> None:
        self._others.remove(sink)
        self._warn(f"{type(sink).__name__} stopped, the run goes on: {error}")


class TensorBoardSink:
    """Scalars for TensorBoard, in `folder`. Those of a killed run after `step` are superseded."""

    def __init__(self, folder: Path, step: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        purge = step + 1 if folder.exists() else None
        self._writer = SummaryWriter(str(folder), purge_step=purge, flush_secs=10)

    def log(self, record: Record) -> None:
        for name, value in scalars(record).items():
            self._writer.add_scalar(name, value, record["step"])

    def close(self) -> None:
        self._writer.close()


class WandbSink:
    """A Weights & Biases run, the same one when a stopped run goes on.

    Records are placed by their own step, not by wandb's, which refuses to go back after a resume.
    """

    def __init__(self, folder: Path, track: TrackConfig, config: Mapping[str, Any]) -> None:
        import wandb

        self._run = wandb.init(
            project=track.wandb_project,
            mode=track.wandb_mode,
            name=folder.resolve().name,
            dir=str(folder),
            config=dict(config),
            id=_run_id(folder),
            resume="allow",
        )
        self._run.define_metric("*", step_metric="step")

    def log(self, record: Record) -> None:
        self._run.log({"step": record["step"], **scalars(record)})

    def close(self) -> None:
        self._run.finish()


def _run_id(folder: Path) -> str:
    """The W&B id of a run folder, drawn once and kept in it."""
    path = folder / "wandb" / "id"
    if not path.exists():
        write_atomic(path, secrets.token_hex(4).encode())
    return path.read_text(encoding="utf-8").strip()


def scalars(record: Record) -> dict[str, float]:
    """What a curve can be drawn of: every number of a record but its step, named by its group.

    `loss` becomes train/loss, validation_loss validation/loss, a clock speed/...
    """
    found = {}
    for name, value in record.items():
        if name == "step" or not isinstance(value, int | float):
            continue
        if name.startswith("validation_"):
            found["validation/" + name.removeprefix("validation_")] = float(value)
        else:
            group = "speed" if name in TIMING_FIELDS else "train"
            found[f"{group}/{name}"] = float(value)
    return found


def open_sinks(
    folder: Path,
    track: TrackConfig,
    config: Mapping[str, Any],
    *,
    step: int = 0,
    warn: Warn | None = None,
) -> Sinks:
    """The sinks of the run in `folder`, which stands at `step`: later records are taken back.

    config is the resolved configuration in plain types. A tracker that is asked for but not
    installed, or that does not start, costs one line through `warn`.
    """
    warn = warn or logger.warning
    metrics = MetricsLog(folder / FILE_NAME)
    metrics.truncate_after(step)
    others: list[Sink] = []
    if track.tensorboard and _probe("tensorboard", warn):
        others += _start(lambda: TensorBoardSink(folder / "tensorboard", step), "tensorboard", warn)
    if track.wandb and _probe("wandb", warn):
        others += _start(lambda: WandbSink(folder, track, config), "wandb", warn)
    return Sinks(metrics, others, warn)


def _probe(package: str, warn: Warn) -> ModuleType | None:
    """The package, or None and one line."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        warn(f"track.{package} is on but not available ({error}); pip install 'trivium[track]'")
        return None


def _start(make: Callable[[], Sink], name: str, warn: Warn) -> list[Sink]:
    try:
        return [make()]
    except InputError:
        raise
    except Exception as error:
        warn(f"track.{name} did not start, the run goes on without it: {error}")
        return []
