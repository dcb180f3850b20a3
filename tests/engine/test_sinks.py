"""Records reach every sink; a sink that fails never stops a run."""

from __future__ import annotations

import math
import sys
import types

import pytest

from trivium.data_pipeline.errors import InputError
from trivium.engine.metrics import MetricsLog, read_metrics
from trivium.engine.schema import TrackConfig
from trivium.engine.sinks import Sinks, open_sinks, scalars

RECORD = {"step": 3, "tokens": 96, "loss": 2.5, "lr": 1e-3, "validation_loss": 2.75, "memory": 9}


class Failing:
    """A sink whose every call fails."""

    calls = 0

    def log(self, record):
        self.calls += 1
        raise ConnectionError("no route")

    def close(self):
        raise ConnectionError("no route")


def test_scalars_are_grouped():
    assert scalars(RECORD | {"note": "x", "mtp_1_loss": math.nan, "none": None}) == {
        "train/tokens": 96,
        "train/loss": 2.5,
        "train/lr": 1e-3,
        "validation/loss": 2.75,
        "speed/memory": 9,
        "train/mtp_1_loss": pytest.approx(math.nan, nan_ok=True),
    }


def test_opening_takes_back_what_came_after_the_checkpoint(tmp_path):
    with MetricsLog(tmp_path / "metrics.jsonl") as log:
        for step in range(1, 6):
            log.log({"step": step})
    sinks = open_sinks(tmp_path, TrackConfig(), {}, step=2)
    sinks.log(RECORD)
    sinks.close()
    assert [one["step"] for one in read_metrics(tmp_path)] == [1, 2, 3]


def test_a_failing_sink_is_dropped_with_one_line(tmp_path):
    lines: list[str] = []
    failing = Failing()
    sinks = Sinks(MetricsLog(tmp_path / "metrics.jsonl"), [failing], lines.append)
    for _ in range(3):
        sinks.log(RECORD)
    sinks.close()
    assert failing.calls == 1
    assert lines == ["Failing stopped, the run goes on: no route"]
    assert len(read_metrics(tmp_path)) == 3


@pytest.mark.parametrize("package", ["tensorboard", "wandb"])
def test_a_tracker_that_is_not_installed_costs_one_line(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    lines: list[str] = []
    sinks = open_sinks(tmp_path, TrackConfig(**{package: True}), {}, warn=lines.append)
    sinks.log(RECORD)
    sinks.close()
    assert len(lines) == 1
    assert "pip install 'trivium[track]'" in lines[0]
    assert len(read_metrics(tmp_path)) == 1


class FakeRun:
    """What `wandb.init` returns, as far as a sink uses it."""

    def __init__(self, **settings):
        self.settings = settings
        self.logged: list[dict] = []
        self.finished = False

    def define_metric(self, pattern, step_metric):
        assert (pattern, step_metric) == ("*", "step")

    def log(self, values):
        self.logged.append(values)

    def finish(self):
        self.finished = True


def test_wandb_goes_on_with_the_same_run(tmp_path, monkeypatch):
    runs: list[FakeRun] = []
    fake = types.ModuleType("wandb")
    fake.init = lambda **settings: runs.append(FakeRun(**settings)) or runs[-1]  # type: ignore
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for step in (3, 2):
        sinks = open_sinks(tmp_path, TrackConfig(wandb=True), {"seed": 1}, step=step)
        sinks.log(RECORD)
        sinks.close()
    assert runs[0].settings["id"] == runs[1].settings["id"]
    assert runs[0].settings["mode"] == "offline"
    assert runs[0].settings["config"] == {"seed": 1}
    assert runs[0].logged == [{"step": 3, **scalars(RECORD)}]
    assert runs[0].finished


def test_wandb_that_does_not_start_costs_one_line(tmp_path, monkeypatch):
    fake = types.ModuleType("wandb")
    monkeypatch.setitem(sys.modules, "wandb", fake)
    lines: list[str] = []
    open_sinks(tmp_path, TrackConfig(wandb=True), {}, warn=lines.append).close()
    assert len(lines) == 1
    assert lines[0].startswith("track.wandb did not start")


def test_tensorboard_forgets_what_was_taken_back(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for step, losses in ((0, (5.0, 4.0, 3.0)), (1, (4.5, 3.5))):
        sinks = open_sinks(tmp_path, TrackConfig(tensorboard=True), {}, step=step)
        for offset, loss in enumerate(losses, 1):
            sinks.log({"step": step + offset, "loss": loss})
        sinks.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    kept = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert kept == [(1, 5.0), (2, 4.5), (3, 3.5)]


def test_a_folder_that_cannot_be_written_is_an_input_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write here"):
        open_sinks(tmp_path / "file" / "run", TrackConfig(), {})
