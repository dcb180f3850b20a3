"""What rank 0 shows and keeps of a run: display, metrics, samples, report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from trivium.data_pipeline.config_tree import to_dict
from trivium.data_pipeline.files import write_atomic
from trivium.engine import flops, parameters
from trivium.engine.corpus import Corpus
from trivium.engine.device import Device
from trivium.engine.layout import ParallelLayout, summary
from trivium.engine.model.megatron_config import DTYPES
from trivium.engine.progress import Progress
from trivium.engine.report import RunFacts, Sample, write_report
from trivium.engine.schema import RunConfig
from trivium.engine.sinks import open_sinks

Record = Mapping[str, Any]

SAMPLES = "samples.jsonl"


class Silent:
    """The observer of every other rank."""

    def record(self, record: Record) -> None:
        """Nothing to show."""

    def saving(self) -> None:
        """Nothing to sync."""

    def sample(self, step: int, prompt: str, text: str) -> None:
        """Nothing to keep."""

    def finish(self, finished: bool) -> None:
        """Nothing to write."""


class Observer:
    """The observer of rank 0. Use as a context."""

    def __init__(
        self,
        config: RunConfig,
        device: Device,
        corpus: Corpus,
        utilization: flops.Utilization | None,
        first_step: int,
        origin: Path | None,
        kernels: str = "",
    ) -> None:
        self.config = config
        self.corpus = corpus
        self.layout = ParallelLayout.of(config.parallel, dist.get_world_size())
        self.folder = Path(config.run.dir)
        self.utilization = utilization
        self.samples = _earlier_samples(self.folder, first_step)
        self._device = device
        self._origin = origin
        self._kernels = kernels
        self._first_step = first_step
        self._last: Record = {}
        self._stack = ExitStack()

    def __enter__(self) -> Observer:
        self.progress = self._stack.enter_context(
            Progress(
                self.folder.name,
                self.config.train.steps,
                first_step=self._first_step,
                log_every=self.config.run.log_every,
                flops_convention=self.utilization.label if self.utilization else None,
            )
        )
        say = self.progress.print
        self.sinks = open_sinks(
            self.folder,
            self.config.track,
            to_dict(self.config),
            step=self._first_step,
            warn=say,
        )
        self._stack.callback(self.sinks.close)
        say(f"{self._device.name}; {summary(self.layout)}")
        if self._kernels:
            say(self._kernels)
        if self.corpus.unigram_entropy is not None:
            say(f"unigram entropy of the data: {self.corpus.unigram_entropy:.4f} nats per token")
        if self._origin is not None:
            say(f"resuming from {self._origin} at step {self._first_step}")
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def record(self, record: Record) -> None:
        """A step was taken."""
        if self.utilization is not None:
            record = {**record, "mfu": self.utilization.of(record["tokens_per_s"])}
        self._last = record
        self.sinks.log(record)
        self.progress.update(record)

    def saving(self) -> None:
        """A checkpoint is about to be written: what it presupposes must be on the disk."""
        self.sinks.metrics.sync()

    def sample(self, step: int, prompt: str, text: str) -> None:
        """The model continued `prompt` with `text`."""
        self.samples.append(Sample(step, prompt, text))
        lines = [json.dumps(sample._asdict(), ensure_ascii=False) for sample in self.samples]
        write_atomic(self.folder / SAMPLES, "".join(f"{line}\n" for line in lines).encode())
        self.progress.print(f"step {step}, {prompt!r} continues: {text!r}")

    def finish(self, finished: bool) -> None:
        """Write report.html and loss.png; say where things are."""
        say = self.progress.print
        step = self._last.get("step", self._first_step)
        if not finished:
            say(f"stopped after step {step}; saved. Run the same command again to go on.")
            return
        report = write_report(self.folder, self._facts())
        entropy = self.corpus.unigram_entropy
        validation = self._last.get("validation_loss")
        if validation is not None and entropy is not None:
            say(f"validation loss {validation:.4f}, unigram entropy {entropy:.4f} nats per token")
        say(f"finished {step} steps; report: {report}")

    def _facts(self) -> RunFacts:
        """What the run folder does not say about itself."""
        total, active = parameters.count(self.config.model)
        facts = {
            "device": self._device.name,
            "parameters": f"{total:,} in all, {active:,} active for a token",
            "training tokens in the data": f"{self.corpus.train.token_count:,}",
            "torch": torch.__version__,
        }
        return RunFacts(
            title=self.folder.name,
            facts=facts,
            layout=summary(self.layout),
            unigram_entropy=self.corpus.unigram_entropy,
            flops_convention=self.utilization.label if self.utilization else None,
            samples=self.samples,
        )


def _earlier_samples(folder: Path, step: int) -> list[Sample]:
    """Samples that the run had written up to `step`, before it was stopped."""
    try:
        lines = (folder / SAMPLES).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    found = [Sample(**json.loads(line)) for line in lines]
    return [sample for sample in found if sample.step <= step]


def measure_utilization(config: RunConfig, device: Device) -> flops.Utilization | None:
    """MFU's denominator: the GPUs' data sheet, or what all ranks multiply at once. Collective."""
    world = dist.get_world_size()
    per_token = flops.training_flops_per_token(config.model, config.data.sequence_length, "causal")
    if device.is_cuda:
        peak = flops.known_peak(device.name, config.train.dtype)
        if peak is None:
            return None
        source = f"({world} x {device.name})"
        return flops.Utilization(per_token, "causal", peak * world, source)
    size = 1024
    left = torch.randn(size, size).to(DTYPES[config.train.dtype])
    dist.barrier()
    rate = flops.measured_peak(lambda: left @ left, 2.0 * size**3)
    total = torch.tensor(rate, dtype=torch.float64)
    dist.all_reduce(total)
    return flops.Utilization(per_token, "causal", float(total), f"(measured on {world} ranks)")
