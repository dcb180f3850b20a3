"""The display: lively on a terminal, plain elsewhere, and never in the way."""

from __future__ import annotations

import io
import math
import time

import pytest
from rich.console import Console

from trivium.engine.progress import REFRESH_HZ, Curve, Progress


class Clock:
    """A clock that is set by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def record(step: int, **more):
    return {
        "step": step,
        "tokens": step * 100,
        "loss": 8.0 / step,
        "grad_norm": 0.5,
        "lr": 9e-4,
        "tokens_per_s": 12_400.0,
        "memory": 3 * 2**29,
        **more,
    }


def run(records, *, terminal: bool, clock=None, seconds=0.5, **settings) -> str:
    out = io.StringIO()
    clock = clock or Clock()
    console = Console(file=out, force_terminal=terminal, width=120, highlight=False)
    with Progress("demo", 100, console=console, clock=clock, **settings) as progress:
        for one in records:
            clock.now += seconds
            progress.update(one)
    return out.getvalue()


def test_plain_lines_without_a_terminal():
    lines = run([record(s) for s in range(1, 101)], terminal=False, log_every=40).splitlines()
    rest = "grad 0.50  lr 9.00e-04  12.4k tokens/s  memory 1.5 GiB  ETA"
    assert lines == [
        f"step  40/100  loss 0.2000  {rest} 0:30",
        f"step  80/100  loss 0.1000  {rest} 0:10",
        f"step 100/100  loss 0.0800  {rest} 0:00",
    ]


def test_plain_lines_name_the_convention_of_mfu():
    text = run([record(1, mfu=0.312)], terminal=False, flops_convention="model FLOPs, causal")
    assert text.splitlines()[0] == "MFU counts model FLOPs, causal"
    assert "MFU 31.2%" in text


def test_validation_stays_in_sight_and_skips_are_counted():
    records = [record(1, validation_loss=7.5), record(2, skipped=True, loss=None), record(3)]
    lines = run(records, terminal=False).splitlines()
    assert "loss not finite  validation 7.5000" in lines[1]
    assert lines[2].count("skipped 1") == 1


def test_live_display_shows_everything():
    text = run([record(s, mfu=0.25) for s in (1, 2)], terminal=True, flops_convention="causal")
    for part in (
        "demo",
        "of 100 steps",
        "ETA",
        "12.4k tokens/s",
        "25.0%",
        "1.5 GiB",
        "causal",
        "█",
    ):
        assert part in text


def test_live_display_redraws_no_faster_than_it_says():
    records = [record(step) for step in range(1, 101)]
    seconds = 0.01
    drawn = run(records, terminal=True, seconds=seconds).count("of 100 steps")
    assert drawn <= len(records) * seconds * REFRESH_HZ + 3  # first, last and a rounding


def test_prints_go_above_the_display_as_they_are():
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=60)
    with Progress("demo", 10, console=console) as progress:
        progress.print("[bold]not markup[/bold] " + "x" * 80)
        progress.update(record(1))
    assert "[bold]not markup[/bold] " + "x" * 80 in out.getvalue()


def test_a_crash_gives_the_terminal_back():
    out = io.StringIO()
    console = Console(file=out, force_terminal=True)
    with pytest.raises(RuntimeError), Progress("demo", 10, console=console) as progress:
        progress.update(record(1))
        raise RuntimeError
    assert out.getvalue().rstrip("\n").endswith("\x1b[?25h")  # the cursor is shown again


def test_remaining_time_follows_the_latest_pace():
    clock = Clock()
    console = Console(file=io.StringIO())
    with Progress("demo", 1000, first_step=100, console=console, clock=clock) as progress:
        assert progress.remaining_seconds is None
        for step in range(101, 301):
            clock.now += 10 if step <= 200 else 1
            progress.update(record(step))
    assert progress.remaining_seconds == pytest.approx(700)


@pytest.mark.parametrize("terminal", [False, True])
def test_an_update_costs_little(terminal):
    """A step of a millisecond loses less than a tenth to the display."""
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120)
    with Progress("demo", 2000, log_every=100, console=console) as progress:
        began = time.perf_counter()
        for step in range(1, 2001):
            progress.update(record(step))
        assert (time.perf_counter() - began) / 2000 < 1e-4


def test_curve_keeps_the_whole_course():
    curve = Curve(8)
    for value in range(1000):
        curve.add(1000 - value)
    curve.add(math.nan)
    curve.add(None)
    drawn = curve.draw()
    assert 4 <= len(drawn) <= 8
    assert drawn[0] == "█"
    assert drawn[-1] == "▁"
    assert list(drawn) == sorted(drawn, reverse=True)


def test_curve_of_little_and_of_a_constant():
    curve = Curve(8)
    assert curve.draw() == ""
    curve.add(1.0)
    curve.add(1.0)
    assert curve.draw() == "▁▁"
