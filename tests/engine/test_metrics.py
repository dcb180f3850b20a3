"""metrics.jsonl survives kills, and comparing runs sees every bit."""

from __future__ import annotations

import json
import math
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from trivium.data_pipeline.errors import InputError
from trivium.engine.metrics import (
    MetricsLog,
    compare,
    deterministic,
    encode,
    read_metrics,
)

TOOL = Path(__file__).parents[2] / "tools" / "compare_runs.py"


def record(step: int, **more):
    loss = 5 / (step + math.pi)
    clocks = {"tokens_per_s": 1e5 + step, "step_seconds": 0.1, "memory": 2**31}
    return {"step": step, "tokens": 4096 * step, "loss": loss, "lr": 1e-3 / 3, **more, **clocks}


def write(path: Path, records) -> Path:
    with MetricsLog(path) as log:
        for one in records:
            log.log(one)
    return path


def test_a_record_reads_back_bit_for_bit(tmp_path):
    records = [record(step, grad_norm=np.float32(0.1) * step) for step in range(1, 20)]
    assert read_metrics(write(tmp_path / "m.jsonl", records)) == records


def test_non_finite_values_stay_valid_json(tmp_path):
    line = encode({"step": 1, "loss": math.nan, "grad_norm": math.inf, "skipped": True})
    assert json.loads(line) == {"step": 1, "loss": None, "grad_norm": None, "skipped": True}


@pytest.mark.parametrize("step", [None, "3", 1.5])
def test_a_record_needs_its_step(step):
    with pytest.raises(ValueError, match="step"):
        encode({"step": step, "loss": 1.0})


def test_every_record_is_on_disk_at_once(tmp_path):
    log = MetricsLog(tmp_path / "run" / "metrics.jsonl")
    log.log(record(1))
    assert [one["step"] for one in read_metrics(tmp_path / "run")] == [1]
    log.sync()
    log.close()


def test_a_half_written_line_is_dropped_and_overwritten(tmp_path):
    path = write(tmp_path / "m.jsonl", [record(1), record(2)])
    whole = path.read_bytes()
    for cut in range(len(encode(record(1))) + 1, len(whole)):
        path.write_bytes(whole[:cut])
        assert [one["step"] for one in read_metrics(path)] == [1]
        write(path, [record(2)])
        assert path.read_bytes() == whole


def test_a_file_of_one_long_half_line_is_emptied(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_bytes(b"x" * 10_000)
    assert read_metrics(write(path, [record(1)])) == [record(1)]


def test_truncate_after_takes_back_later_steps(tmp_path):
    path = write(tmp_path / "m.jsonl", map(record, range(1, 11)))
    whole = path.read_bytes()
    with MetricsLog(path) as log:
        assert log.truncate_after(6) == 4
        assert log.truncate_after(6) == 0
        for step in range(7, 11):
            log.log(record(step))
    assert path.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [path]


def test_truncate_after_zero_and_of_nothing(tmp_path):
    with MetricsLog(tmp_path / "m.jsonl") as log:
        assert log.truncate_after(0) == 0
        log.log(record(1))
        assert log.truncate_after(0) == 1
    assert (tmp_path / "m.jsonl").read_bytes() == b""


def test_damage_inside_the_file_is_an_error_with_its_line(tmp_path):
    path = write(tmp_path / "m.jsonl", [record(1), record(2), record(3)])
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b'{"loss": 1}\n' + lines[2])
    with pytest.raises(InputError, match=r"line 2 .* restore it"):
        read_metrics(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere.* no such file"):
        read_metrics(tmp_path / "nowhere")


def test_a_full_disk_is_an_input_error(tmp_path):
    """A file size limit stands in for the full disk, in a child process that it cannot outlive."""
    child = os.fork()
    if child == 0:
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
        status = 1
        try:
            write(tmp_path / "m.jsonl", map(record, range(1, 10)))
        except InputError as error:
            status = 0 if "disk is full" in str(error) else 2
        os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert 1 <= len(read_metrics(tmp_path / "m.jsonl")) < 9


def test_deterministic_leaves_out_clocks():
    assert list(deterministic(record(1, mfu=0.4))) == ["step", "tokens", "loss", "lr"]


def test_runs_that_differ_in_clocks_only_are_identical():
    other = [record(step) | {"tokens_per_s": 1.0, "memory": 7} for step in range(1, 5)]
    found = compare(map(record, range(1, 6)), other)
    assert found.identical
    assert found.steps == [1, 2, 3, 4]


def test_the_largest_difference_is_found_in_its_place():
    runs = [[record(step) for step in range(1, 6)] for _ in range(2)]
    runs[1][1]["loss"] *= 1 + 1e-6
    runs[1][3]["loss"] *= 1 - 4e-6
    found = compare(*runs)
    assert not found.identical
    assert found.fields["loss"].step == 4
    assert found.fields["loss"].relative == pytest.approx(4e-6, rel=1e-6)
    assert found.fields["lr"].relative == 0


def test_one_last_bit_is_a_difference():
    a, b = record(1), record(1)
    b["loss"] = math.nextafter(b["loss"], 9.0)
    assert 0 < compare([a], [b]).largest < 1e-15


def test_a_missing_value_or_step_is_infinitely_far():
    runs = [[record(step) for step in range(1, 6)] for _ in range(2)]
    assert math.isinf(compare(runs[0], [*runs[1][:2], *runs[1][3:]]).largest)
    runs[1][2]["loss"] = None
    assert math.isinf(compare(*runs).fields["loss"].relative)
    runs[0][2]["loss"] = None
    assert compare(*runs).identical


@pytest.mark.parametrize(
    ("factor", "tolerance", "status", "verdict"),
    [
        (1.0, "0", 0, "bit-identical over 5 common steps (1 to 5)"),
        (1 + 1e-6, "1e-5", 0, "agree: 1.00e-06"),
        (1 + 1e-6, "1e-7", 1, "differ: 1.00e-06"),
    ],
)
def test_the_tool(tmp_path, factor, tolerance, status, verdict):
    write(tmp_path / "a" / "metrics.jsonl", map(record, range(1, 6)))
    changed = [record(step) for step in range(1, 7)]
    changed[2]["loss"] *= factor
    b = write(tmp_path / "b.jsonl", changed)
    command = [sys.executable, str(TOOL), str(tmp_path / "a"), str(b), "--tolerance", tolerance]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (status, "")
    assert done.stdout.splitlines()[-1].startswith(verdict)


def test_the_tool_refuses_what_it_cannot_compare(tmp_path):
    write(tmp_path / "a.jsonl", [record(1)])
    write(tmp_path / "b.jsonl", [record(2)])
    for b, words in (("b.jsonl", "no step in common"), ("none", "no such file")):
        command = [sys.executable, str(TOOL), str(tmp_path / "a.jsonl"), str(tmp_path / b)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert words in done.stderr
        assert done.stderr.count("\n") == 1
