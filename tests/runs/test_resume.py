"""A run that is killed and resumed leaves the record of one that never was."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest

from tests.runs.killing import finish, kill_at_random, start, steps_logged, write_config
from trivium.engine.metrics import deterministic, read_metrics

STEPS = 12


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, object]]]:
    """A configuration, and what its undisturbed run over two ranks recorded."""
    folder = tmp_path_factory.mktemp("undisturbed")
    config = write_config(folder)
    finish(start(config, folder / "run", 2, ["parallel.tp=2"]))
    records = [deterministic(record) for record in read_metrics(folder / "run" / "metrics.jsonl")]
    assert [record["step"] for record in records] == list(range(1, STEPS + 1))
    return config, records


def killed(config: Path, run: Path, kills: int, seed: int) -> int:
    """Kill a two-rank run `kills` times, then let it finish; gives how often it really was."""
    chance, count = random.Random(seed), 0
    for _ in range(kills):
        if steps_logged(run) >= STEPS - 1:
            break
        count += kill_at_random(start(config, run, 2, ["parallel.tp=2"]), run, STEPS, chance)
    finish(start(config, run, 2, ["parallel.tp=2"]))
    return count


def test_killed_run_is_bit_identical(undisturbed, tmp_path):
    config, expected = undisturbed
    assert killed(config, tmp_path / "run", 2, seed=1) >= 1
    found = [deterministic(r) for r in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    assert found == expected


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_killed_ten_times_over(undisturbed, tmp_path, seed):
    config, expected = undisturbed
    assert killed(config, tmp_path / "run", 1, seed) == 1
    found = [deterministic(r) for r in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    assert found == expected


@pytest.mark.parametrize(
    "layout", ["parallel.tp=2", pytest.param("parallel.cp=2", marks=pytest.mark.slow)]
)
def test_stopped_by_sigterm_and_resumed_under_another_layout(undisturbed, tmp_path, layout):
    config, expected = undisturbed
    run = tmp_path / "run"
    first = start(config, run, 2, [layout])
    while steps_logged(run) < 5:
        assert first.poll() is None, first.communicate()[0]
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=60)
    stopped = steps_logged(run)
    assert 5 <= stopped < STEPS
    assert (run / "checkpoints" / f"step-{stopped:08d}" / "manifest.json").exists()
    finish(start(config, run))
    found = [deterministic(r) for r in read_metrics(run / "metrics.jsonl")]
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        for name, value in theirs.items():
            # a router's choices turn on rounding, and the norm with them (docs/parity.md)
            bound = 1e-4 if name == "grad_norm" else 1e-5
            assert ours[name] == pytest.approx(value, rel=bound), (name, ours["step"])
