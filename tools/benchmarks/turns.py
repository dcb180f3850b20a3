"""How the parts of `benchmark.py data` measure: contestants in turn, each in a fresh process.

A part is a module of this folder named `data_...`. It prepares a folder of inputs once, and names
its contestants: functions that are given the folder, import and load and warm up what they need,
and return the work to be timed. One pass runs every contestant once in a process of its own; every
second pass goes backwards (A B C C B A), so a machine that grows slower touches all alike, and
ratios are taken pass by pass. Seconds are CPU seconds of the process and its children, in user and
kernel: on a shared machine wall time says little. Every contestant has one thread to a library.

    python -m tools.benchmarks.data_PART [key=value ...]           the fields of `Asked`, or of
                                                                   the part's own form of it
    python -m tools.benchmarks.data_PART contestant NAME FOLDER    one turn; JSON on the last line
"""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tools.command import read
from trivium.data_pipeline.errors import InputError, fail_clean

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data" / "text"  # real texts beside the repository, if anywhere
OURS = "trivium"

_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), "1"
)
# progress bars and the services of peers stay out of the figures
_QUIET = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TQDM_DISABLE": "1"}

Work = Callable[[], Any]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a part is asked to measure."""

    passes: int = 4  # over all contestants; every second one in the opposite order
    texts: tuple[str, ...] = ()  # files, folders, globs or python-docs; empty: what is there
    peers: tuple[str, ...] = ()  # which of the part's; empty: all that are installed
    tiny: bool = False  # a small input and one pass, to see that it works: no figures
    out: str = ""  # JSON file for every measurement

    def __post_init__(self) -> None:
        if self.passes < 1:
            raise InputError(f"passes {self.passes}: 1 or more")


@dataclass(frozen=True)
class Contestant:
    """One way to do the work of a part.

    ready: given the folder, imports, loads, warms up and returns the work. needs: module that must
    be there, with what to install where it is not.
    """

    ready: Callable[[Path], Work]
    needs: str = ""
    install: str = ""


@dataclass(frozen=True)
class Measurement:
    """One turn: seconds of the work alone, and what the part made of its result."""

    cpu: float
    wall: float
    peak: int  # bytes resident of the process, imports and inputs included
    result: dict[str, Any]


Passes = list[dict[str, Measurement]]
Clock = Literal["cpu", "wall"]


class Broken(RuntimeError):
    """A contestant did not come to its end. The last line says why."""


@dataclass(frozen=True)
class Ratio:
    """A quotient of one pass after the other, and the bar it is held against."""

    what: str
    values: list[float]
    bar: float | None = None
    least: bool = True  # the bar is the least (else the most) that will do

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def holds(self) -> bool:
        """Whether the median reaches the bar; True where there is none."""
        if self.bar is None:
            return True
        return self.median >= self.bar if self.least else self.median <= self.bar

    def __str__(self) -> str:
        sign = "at least" if self.least else "at most"
        bar = "" if self.bar is None else f" (bar: {sign} {self.bar:g})"
        return f"{self.what}: {spread(self.values)}{bar}{'' if self.holds else ' MISSED'}"


@dataclass(frozen=True)
class Report:
    """What a part found. Rows are printed as Markdown under `head`."""

    head: Sequence[str]
    rows: list[list[str]]
    ratios: list[Ratio]
    failures: list[str]  # bars of another kind that are missed, a line each


@dataclass(frozen=True)
class Part:
    """A comparison. The functions get the folder of inputs."""

    module: str  # dotted, to start contestants from
    contestants: Mapping[str, Contestant]
    prepare: Callable[[Any, Path], dict[str, Any]]  # of the form: writes inputs; facts about them
    judge: Callable[[Any, Path], dict[str, Any]]  # of a contestant's result, untimed
    report: Callable[[Passes, dict[str, Any]], Report]
    form: type[Asked] = Asked  # what may be asked of it


def main(part: Part, arguments: Sequence[str] | None = None) -> int:
    """The command of a part; its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["contestant"]:
        _turn(part, given[1], Path(given[2]))
        return 0
    return fail_clean(lambda: _command(part, given))


def _command(part: Part, given: Sequence[str]) -> None:
    asked = read(part.form, sys.modules["__main__"].__doc__, given)
    answer = compare(part, asked)
    if asked.out:
        Path(asked.out).write_text(json.dumps(answer, indent=1) + "\n", encoding="utf-8")


def compare(part: Part, asked: Asked) -> dict[str, Any]:
    """Run a part and print its table; everything measured, as it goes into `out`."""
    names = _present(part, asked)
    passes: Passes = []
    with tempfile.TemporaryDirectory() as folder:
        facts = part.prepare(asked, Path(folder))
        for key, value in facts.items():
            print(f"{key}: {value:,}" if isinstance(value, int) else f"{key}: {value}", flush=True)
        for number in range(1 if asked.tiny else asked.passes):
            turns = {}
            for name in names if number % 2 == 0 else names[::-1]:
                try:
                    turns[name] = _start(part, name, Path(folder))
                except Broken as error:
                    if name.startswith(OURS) or passes:
                        raise
                    print(f"{name} is left out: {str(error).splitlines()[-1]}", flush=True)
            names = [name for name in names if name in turns]
            passes.append({name: turns[name] for name in names})
    report = part.report(passes, facts)
    if asked.tiny:  # too little work for a figure to mean anything
        ratios = [replace(ratio, bar=None) for ratio in report.ratios]
        report = replace(report, ratios=ratios, failures=[])
    _print(report, len(passes))
    return {
        "facts": facts,
        "passes": [{name: vars(turn) for name, turn in one.items()} for one in passes],
        "ratios": {ratio.what: vars(ratio) | {"holds": ratio.holds} for ratio in report.ratios},
        "failures": report.failures,
    }


def _present(part: Part, asked: Asked) -> list[str]:
    """Contestants to run; those that are not installed are named in a line and left out."""
    unknown = sorted(set(asked.peers) - set(part.contestants))
    if unknown:
        raise InputError(f"peers: no {unknown[0]!r}; known: {', '.join(part.contestants)}")
    names = []
    missing: dict[str, list[str]] = {}  # why -> whom
    for name, contestant in part.contestants.items():
        if asked.peers and name not in asked.peers and not name.startswith(OURS):
            continue
        if contestant.needs and importlib.util.find_spec(contestant.needs) is None:
            remedy = contestant.install or f"pip install {contestant.needs}"
            why = f"left out: {contestant.needs} is not installed ({remedy})"
            missing.setdefault(why, []).append(name)
            continue
        names.append(name)
    for why, who in missing.items():
        print(f"{', '.join(who)} {'is' if len(who) == 1 else 'are'} {why}")
    return names


def _start(part: Part, name: str, folder: Path) -> Measurement:
    command = [sys.executable, "-m", part.module, "contestant", name, str(folder)]
    environment = {**os.environ, **_ONE_THREAD, **_QUIET}
    done = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True)
    if done.returncode:
        raise Broken(f"{name} ended with status {done.returncode}:\n{done.stderr}")
    turn = Measurement(**json.loads(done.stdout.splitlines()[-1]))
    print(f"{name}: {turn.cpu:.2f} CPU s", file=sys.stderr, flush=True)
    return turn


def _turn(part: Part, name: str, folder: Path) -> None:
    """In the contestant's process."""
    work = part.contestants[name].ready(folder)
    cpu, wall = _cpu(), time.perf_counter()
    result = work()
    cpu, wall = _cpu() - cpu, time.perf_counter() - wall
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    turn = Measurement(cpu, wall, peak, part.judge(result, folder))
    print("\n" + json.dumps(vars(turn)), flush=True)


def _cpu() -> float:
    """CPU seconds of this process and the children it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def seconds(passes: Passes, name: str, clock: Clock = "cpu") -> list[float]:
    """Seconds of a contestant, pass by pass."""
    return [getattr(one[name], clock) for one in passes]


def quotient(passes: Passes, above: str, below: str, clock: Clock = "cpu") -> list[float]:
    """Seconds of one contestant over another's, pass by pass; empty where one did not run."""
    if not {above, below} <= passes[0].keys():
        return []
    pairs = zip(seconds(passes, above, clock), seconds(passes, below, clock), strict=True)
    return [theirs / ours for theirs, ours in pairs]


def spread(values: Sequence[float]) -> str:
    """Median [lowest, highest]."""
    shown = [f"{value:.3g}" for value in (statistics.median(values), min(values), max(values))]
    return shown[0] if len(values) == 1 else f"{shown[0]} [{shown[1]}, {shown[2]}]"


def _print(report: Report, passes: int) -> None:
    print(f"\n{passes} passes, medians [lowest, highest], CPU seconds")
    for row in (report.head, ["---"] * len(report.head), *report.rows):
        print("| " + " | ".join(row) + " |")
    for line in [*map(str, report.ratios), *report.failures]:
        print(line)
    held = [ratio for ratio in report.ratios if ratio.bar is not None]
    missed = [ratio.what for ratio in held if not ratio.holds] + report.failures
    if held or missed:
        met = sum(ratio.holds for ratio in held)
        print(f"bars: {met} of {len(held)} met; missed: {'; '.join(missed) or 'none'}")
    sys.stdout.flush()
