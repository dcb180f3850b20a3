"""What engine, data path and kernels cost: python tools/benchmark.py COMPARISON key=value ...

    python tools/benchmark.py step                        # against a bare loop and HF Trainer
    python tools/benchmark.py step workload.threads=2
    python tools/benchmark.py scaling                     # two processes against one
    python tools/benchmark.py data                        # every part of the data path
    python tools/benchmark.py data parts='[minhash,dedup]' texts='[FILES]' out=FILE
    python tools/benchmark.py kernels                     # every kernel, on a GPU
    python tools/benchmark.py train                       # a training step, on a GPU
    python tools/benchmark.py generate model=FOLDER       # text, against transformers' `generate`

Every peer runs in a fresh process, in turn and then in the opposite order (A B C C B A), so that a
machine that grows slower or faster touches all of them alike; ratios are taken pass by pass. Keys
are the fields of `Benchmark` below and, under `workload`, of tools/benchmarks/workload.py.

A part of `data` is a module tools/benchmarks/data_PART.py, which says what it measures and against
whom; `python -m tools.benchmarks.data_PART key=value` runs it alone. Keys that are given here are
passed on to it. `kernels`, `train` and `generate` have keys of their own: see the modules of those
names in tools/benchmarks.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from trivium.data_pipeline.errors import InputError, fail_clean

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # see command.py

from tools.benchmarks import generate, kernels, train  # noqa: E402
from tools.benchmarks.workload import Workload  # noqa: E402
from tools.command import parse, parser  # noqa: E402

TOLERANCE = {"fp32": 1e-5, "bf16": 2e-3}  # of losses between peers, relative
PART = "data_"  # modules of tools/benchmarks that begin so are the parts of `data`
# each its own form and command
OF_THEIR_OWN: dict[str, Any] = {"kernels": kernels, "train": train, "generate": generate}
# peer -> what it needs beyond Trivium
PEERS = {"bare": "torch", "engine": "torch", "hugging_face": "transformers"}


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What to compare, and how often."""

    passes: int = 4  # over all peers; every second one in the opposite order
    parts: tuple[str, ...] = ()  # of `data`; empty: all of them
    texts: tuple[str, ...] = ()  # documents for `data`; empty: each part's own
    tiny: bool = False  # `data` on small inputs, to see that it works
    peers: tuple[str, ...] = ("bare", "engine", "hugging_face")  # of `step`
    out: str = ""  # JSON file for every measurement
    workload: Workload = field(default_factory=Workload)


@dataclass(frozen=True)
class Run:
    """A peer at work; `copies` of it at a time know nothing of each other."""

    peer: str
    work: Workload
    copies: int = 1


@dataclass(frozen=True)
class Measurement:
    """One run in one pass. `wall` and `cpu` have an entry for every step, without warm-up."""

    parameters: int
    loss: float  # mean over all steps
    tokens: int  # of a step
    wall: list[float]
    cpu: list[float]  # of one process, all its threads
    peak: int  # bytes resident
    imported: int  # bytes resident when everything was imported

    @property
    def rate(self) -> float:
        """Tokens a second in the median step."""
        return self.tokens / statistics.median(self.wall)


Passes = list[dict[str, Measurement]]


def measure(run: Run) -> Measurement:
    """Start every rank of every copy in a process of its own; what rank 0 of each measured."""
    with tempfile.TemporaryDirectory() as folder:
        worlds = [replace(run.work, store=str(Path(folder, str(n)))) for n in range(run.copies)]
        ranks = [replace(work, rank=rank) for work in worlds for rank in range(work.world)]
        processes = [_start(run.peer, work) for work in ranks]
        outputs = [process.communicate() for process in processes]
    for process, (_, errors) in zip(processes, outputs, strict=True):
        if process.returncode:
            raise RuntimeError(f"{run.peer} ended with status {process.returncode}:\n{errors}")
    answers = [json.loads(output.splitlines()[-1]) for output, _ in outputs[:: run.work.world]]
    first = Measurement(**answers[0])
    wall = [seconds for answer in answers for seconds in answer["wall"]]
    return replace(first, tokens=first.tokens * run.copies, wall=wall)


def _start(peer: str, work: Workload) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tools.benchmarks", peer, json.dumps(asdict(work))]
    environment = {**os.environ, "OMP_NUM_THREADS": str(work.threads), "TRIVIUM_DEVICE": "cpu"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, stdout=pipe, stderr=pipe)


def step(asked: Benchmark) -> Passes:
    """Compare the engine's step with the other peers'; their losses must agree."""
    unknown = sorted(set(asked.peers) - set(PEERS))
    if unknown:
        raise InputError(f"peers: no {unknown[0]!r}; known: {', '.join(PEERS)}")
    missing = [peer for peer in asked.peers if importlib.util.find_spec(PEERS[peer]) is None]
    for peer in missing:
        print(f"{peer} is left out: {PEERS[peer]} is not installed (pip install {PEERS[peer]})")
    peers = [peer for peer in asked.peers if peer not in missing]
    passes = _passes(asked, {peer: Run(peer, asked.workload) for peer in peers})
    first = passes[0][peers[0]]
    for measured in passes:
        for peer, one in measured.items():
            if one.parameters != first.parameters:
                raise RuntimeError(
                    f"{peer} has {one.parameters} parameters, not {first.parameters}"
                )
            if abs(one.loss - first.loss) > TOLERANCE[asked.workload.dtype] * first.loss:
                raise RuntimeError(f"{peer} reports a loss of {one.loss}, not {first.loss}")
    _print_table(passes)
    for peer in ("bare", "hugging_face"):
        if peer in peers and "engine" in peers:
            _print_ratios(passes, peer)
    return passes


def scaling(asked: Benchmark) -> Passes:
    """Compare two data-parallel processes with one, each with the same work of its own.

    Two processes that know nothing of each other show what the machine has to give: two cores of a
    virtual machine may be one of the real machine.
    """
    work = asked.workload
    runs = {
        "one process": Run("engine", work),
        "two, data parallel": Run("engine", replace(work, world=2)),
        "two apart": Run("engine", work, copies=2),
    }
    passes = _passes(asked, runs)
    _print_table(passes)
    one, two, apart = runs
    for what, of in ((two, one), (apart, one), (two, apart)):
        _print_ratio(f"tokens/s, {what} / {of}", [p[what].rate / p[of].rate for p in passes])
    return passes


def data(asked: Benchmark) -> dict[str, Any]:
    """Every part of the data path, or the parts that are named; what each wrote to its `out`.

    None stands for a part that did not come to its end; the others are measured all the same.
    """
    folder = ROOT / "tools" / "benchmarks"
    known = sorted(path.stem.removeprefix(PART) for path in folder.glob(f"{PART}*.py"))
    unknown = [part for part in asked.parts if part not in known]
    if unknown:
        raise InputError(f"parts: no {unknown[0]!r}; known: {', '.join(known)}")
    given = {
        "passes": str(asked.passes),
        "texts": f"[{', '.join(map(json.dumps, asked.texts))}]",
        "tiny": str(asked.tiny).lower(),
    }
    default = Benchmark()
    options = [
        f"{key}={given[key]}" for key in given if getattr(asked, key) != getattr(default, key)
    ]
    found: dict[str, Any] = {}
    for part in asked.parts or known:
        print(f"\n## {part}\n", flush=True)
        with tempfile.TemporaryDirectory() as out:
            answer = Path(out, "part.json")
            wanted = [f"out={answer}"] if asked.out else []
            command = [sys.executable, "-m", f"tools.benchmarks.{PART}{part}", *options, *wanted]
            ended = subprocess.run(command, cwd=ROOT).returncode == 0
            written = answer.read_text(encoding="utf-8") if answer.exists() else "true"
            found[part] = json.loads(written) if ended else None
    return found


def _passes(asked: Benchmark, runs: dict[str, Run]) -> Passes:
    """Every run once in each pass, every second pass backwards."""
    passes: Passes = []
    for number in range(asked.passes):
        names = list(runs) if number % 2 == 0 else list(reversed(runs))
        measured = {}
        for name in names:
            measured[name] = measure(runs[name])
            rate, seconds = measured[name].rate, statistics.median(measured[name].cpu)
            print(f"pass {number + 1}: {name}: {rate:,.0f} tokens/s, {seconds:.2f} CPU s a step")
        passes.append({name: measured[name] for name in runs})
    return passes


def _print_table(passes: Passes) -> None:
    """One row for each run: medians over passes, and the spread of the rate."""
    first = next(iter(passes[0].values()))
    print(f"\n{first.parameters:,} parameters, {len(passes)} passes, medians [lowest, highest]")
    print("| | tokens/s | CPU s a step | peak MB | of which imports | mean loss |")
    print("|---|---|---|---|---|---|")
    for name in passes[0]:
        runs = [measured[name] for measured in passes]
        rates = [run.rate for run in runs]
        cpu = statistics.median(second for run in runs for second in run.cpu)
        peak, imported = (
            statistics.median(getattr(run, what) for run in runs) / 1e6
            for what in ("peak", "imported")
        )
        print(
            f"| {name} | {statistics.median(rates):,.0f} [{min(rates):,.0f}, {max(rates):,.0f}] "
            f"| {cpu:.2f} | {peak:,.0f} | {imported:,.0f} | {runs[0].loss:.6f} |"
        )


def _print_ratios(passes: Passes, peer: str) -> None:
    """The engine over a peer, pass by pass."""
    pairs = [(measured["engine"], measured[peer]) for measured in passes]
    _print_ratio(f"tokens/s, engine / {peer}", [ours.rate / theirs.rate for ours, theirs in pairs])
    cpu = [statistics.median(theirs.cpu) / statistics.median(ours.cpu) for ours, theirs in pairs]
    _print_ratio(f"CPU seconds, {peer} / engine", cpu)
    _print_ratio(
        f"peak memory, engine / {peer}", [ours.peak / theirs.peak for ours, theirs in pairs]
    )


def _print_ratio(what: str, ratios: Sequence[float]) -> None:
    print(f"{what}: {statistics.median(ratios):.3f} [{min(ratios):.3f}, {max(ratios):.3f}]")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the comparison that the command line names and print it."""
    given = parser(__doc__)
    given.add_argument("comparison", choices=["step", "scaling", "data", *OF_THEIR_OWN])
    named = next(iter(sys.argv[1:] if arguments is None else arguments), "")
    if named in OF_THEIR_OWN:
        part = OF_THEIR_OWN[named]
        part.run(parse(given, part.Asked, arguments)[1])
        return
    parsed, asked = parse(given, Benchmark, arguments)
    measured: Any
    if parsed.comparison == "data":
        measured = data(asked)
    else:
        passes = {"step": step, "scaling": scaling}[parsed.comparison](asked)
        measured = [{name: asdict(one) for name, one in each.items()} for each in passes]
    if asked.out:
        Path(asked.out).write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    if parsed.comparison == "data" and (
        broken := [part for part in measured if not measured[part]]
    ):
        raise InputError(f"no figures for {', '.join(broken)}: see what they said above")


if __name__ == "__main__":
    sys.exit(fail_clean(main))
