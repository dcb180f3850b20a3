"""Every kernel against its peers, beside what the device's memory and matrix units give.

    python tools/benchmark.py kernels                       # every operator
    python tools/benchmark.py kernels parts='[norm]' without='[compile]' out=FILE seconds=120

A part is a module tools/benchmarks/kernels_PART.py whose `cases(tiny)` says what is run, on which
data and against whom. First the two ceilings are measured: a large copy (bytes read and written)
and an 8192^3 bf16 matrix product. Then the contestants of each case take turns, in the one order
and back (A B C C B A); ratios are taken round by round. How a call is timed: kernel_timing.py.

All of it happens in a process of its own, which is started anew where a contestant faults (a CUDA
error is for good) or hangs; what it was at is a line of the table, and the rest goes on.
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from trivium.data_pipeline.errors import InputError, fail_clean

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # see command.py

from tools.benchmarks.turns import spread  # noqa: E402
from tools.command import read  # noqa: E402

PART = "kernels_"  # modules of this folder that begin so are the parts
OURS = "ours"
START = 180.0  # seconds until a worker must have told something
MARK = "@case "  # begins the lines by which the worker tells how far it is


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What to measure, and how long it may take."""

    parts: tuple[str, ...] = ()  # operators, or dotted modules like theirs; empty: all operators
    without: tuple[str, ...] = ()  # contestants to leave out
    tiny: bool = False  # small shapes, to see that it works: no figures
    rounds: int = 6  # over the contestants of a case; every second one backwards
    seconds: float = 600.0  # in all: cases that would begin later are left out
    patience: float = 120.0  # for one case, with its compilation
    out: str = ""  # JSON file for every measurement

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise InputError(f"rounds {self.rounds}: 1 or more")
        named = {part for part in self.parts if "." not in part}
        unknown = sorted(named - set(known_parts()))
        if unknown:
            raise InputError(f"parts: no {unknown[0]!r}; known: {', '.join(known_parts())}")


@dataclass(frozen=True)
class Failure:
    """What was not measured: a case, a whole part, or one contestant of a case."""

    case: str
    contestant: str
    why: str

    @property
    def ours(self) -> bool:
        """Is it ours to answer for?"""
        return self.contestant in ("", OURS)

    def __str__(self) -> str:
        return " / ".join(filter(None, (self.case, self.contestant))) + f": {self.why}"


@dataclass
class Progress:
    """What a worker is told of those before it, and what all of them found."""

    asked: Asked
    began: float = field(default_factory=time.time)
    device: dict[str, Any] = field(default_factory=dict)  # name, ceilings, path of the kernels
    rows: list[dict[str, Any]] = field(default_factory=list)  # a case each
    failures: list[Failure] = field(default_factory=list)
    done: list[str] = field(default_factory=list)  # cases, whole parts where they did not import
    broken: list[list[str]] = field(default_factory=list)  # (case, contestant) that failed
    late: list[str] = field(default_factory=list)  # cases whose turn came too late
    doing: str = ""
    trying: str = ""  # a contestant's first call

    @property
    def left(self) -> float:
        return self.asked.seconds - (time.time() - self.began)


def known_parts() -> list[str]:
    """The operators that have a module here."""
    folder = Path(__file__).parent
    return sorted(path.stem.removeprefix(PART) for path in folder.glob(f"{PART}*.py"))


def compare(asked: Asked) -> dict[str, Any]:
    """Measure everything asked for and print the table; what goes into `out`."""
    progress = Progress(asked)
    while not _listen(progress):
        pass
    _print(progress)
    return {
        "device": progress.device,
        "cases": progress.rows,
        "failures": [asdict(failure) for failure in progress.failures],
        "late": progress.late,
        "seconds": round(time.time() - progress.began, 1),
    }


def _listen(progress: Progress) -> bool:
    """Run one worker to its end, or end it; whether nothing is left to do."""
    command = [sys.executable, "-m", "tools.benchmarks.kernel_worker", _told(progress)]
    worker = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    lines: queue.Queue[str | None] = queue.Queue()

    def forward() -> None:
        assert worker.stdout is not None
        for line in worker.stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=forward, daemon=True).start()
    limit = START
    while True:
        try:
            line = lines.get(timeout=limit)
        except queue.Empty:
            worker.kill()
            worker.wait()
            return _fell(progress, f"gave no sign for {limit:.0f} s")
        if line is None:
            break
        limit = min(progress.asked.patience, max(1.0, progress.left + 30))
        if line.startswith(MARK):
            _note(progress, json.loads(line.removeprefix(MARK)))
        else:
            print(line, end="", file=sys.stderr, flush=True)
    status = worker.wait()
    return status == 0 or _fell(progress, f"ended with status {status}")


def _told(progress: Progress) -> str:
    return json.dumps(
        {
            "asked": asdict(progress.asked),
            "device": progress.device,
            "done": progress.done,
            "broken": progress.broken,
            "left": progress.left,
        }
    )


def _note(progress: Progress, event: dict[str, Any]) -> None:
    what = event.pop("event")
    if what == "device":
        progress.device = event
        print(_headline(event), flush=True)
    elif what == "doing":
        progress.doing, progress.trying = event["case"], event.get("contestant", "")
    elif what == "failed":
        _fail(progress, Failure(**event))
    elif what == "late":
        progress.late.append(event["case"])
    elif what == "row":
        progress.rows.append(event)
        progress.done.append(event["case"])
        shown = (f"{name} {one['ms']:.3g} ms" for name, one in event["contestants"].items())
        print(f"{event['case']}: {', '.join(shown)}", flush=True)
        progress.doing = progress.trying = ""


def _fail(progress: Progress, failure: Failure) -> None:
    """Enter a failure: neither the case nor the contestant is tried again."""
    pair = [failure.case, failure.contestant]
    if pair in progress.broken:
        return
    progress.broken.append(pair)
    progress.done += [] if failure.contestant else [failure.case]
    progress.failures.append(failure)
    print(f"failed: {failure}", flush=True)


def _fell(progress: Progress, how: str) -> bool:
    """Enter what a worker fell over, so that the next one leaves it out; whether to give up."""
    at = progress.doing
    _fail(progress, Failure(at or "the first case", progress.trying, how))
    progress.doing = progress.trying = ""
    return not at or progress.left <= 0


def _headline(device: dict[str, Any]) -> str:
    what = device["name"]
    if not device["cuda"]:
        what += ": no GPU, so these are wall-clock times, to see that it runs"
    return (
        f"{what}; torch {device['torch']}; copy {device['copy'] / 1e12:.3f} TB/s, "
        f"8192^3 bf16 product {device['product'] / 1e12:.0f} TFLOP/s; ours: {device['kernels']}"
    )


def _print(progress: Progress) -> None:
    """The table, with what was left out under it."""
    if progress.device:
        print("\n" + _headline(progress.device))
    print(
        f"{progress.asked.rounds} rounds, medians [lowest, highest]; x ours: their time over ours"
    )
    head = "case | contestant | ms | GB/s | of copy | TFLOP/s | of product | x ours | peak MB | by"
    print(f"| {head} |\n|{'---|' * (head.count('|') + 1)}")
    for row in sorted(progress.rows, key=lambda row: row["case"].partition(":")[0]):
        for cells in _cells(row, progress.device):
            print(f"| {' | '.join(cells)} |")
    for failure in progress.failures:
        print(f"failed: {failure}")
    if progress.late:
        print(f"left out for lack of time: {'; '.join(progress.late)}")
    sys.stdout.flush()


def _cells(row: dict[str, Any], device: dict[str, Any]) -> Iterator[list[str]]:
    ours = row["contestants"].get(OURS)
    label = row["case"] + (f" (target: {row['target']})" if row["target"] else "")
    for name, one in row["contestants"].items():
        seconds = one["ms"] / 1e3
        rate, speed = row["bytes"] / seconds, row["flops"] / seconds
        against = ""
        if ours and name != OURS:
            pairs = zip(one["rounds"], ours["rounds"], strict=True)
            against = spread([theirs / own for theirs, own in pairs])
        yield [
            label,
            name,
            spread(one["rounds"]),
            f"{rate / 1e9:,.0f}" if rate else "",
            f"{rate / device['copy']:.1%}" if rate else "",
            f"{speed / 1e12:,.0f}" if speed else "",
            f"{speed / device['product']:.1%}" if speed else "",
            against,
            f"{one['peak'] / 1e6:,.0f}",
            one["how"],
        ]
        label = ""


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    run(read(Asked, __doc__, arguments))


def run(asked: Asked) -> None:
    """Measure, print and write `out`, whatever fails; InputError where something of ours did."""
    measured = compare(replace(asked, rounds=2) if asked.tiny else asked)
    if asked.out:
        Path(asked.out).write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    ours = [one["case"] for one in measured["failures"] if Failure(**one).ours]
    if ours or not measured["cases"]:
        raise InputError(f"no figures of ours for {'; '.join(ours) or 'any case'}: see above")


if __name__ == "__main__":
    sys.exit(fail_clean(main))
