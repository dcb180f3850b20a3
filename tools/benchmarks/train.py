"""A training step on one GPU: Trivium against megatron-core without Transformer Engine and apex.

    python tools/benchmark.py train                          # both models, all peers
    python tools/benchmark.py train models='[llama-3.2-1b]' peers='[engine]' profile=true out=FILE

Each peer trains the same model from the same weights on the same tokens, in bf16 with fp32 masters
and gradients, in a fresh process, in turn and then in the opposite order (A B C D D C B A); ratios
are taken pass by pass, and losses must agree. Who the peers are: train_megatron.py. MFU is of the
device's dense bf16 peak, with causal attention counted half and full (engine/flops.py).

The process of the next turn starts while this one builds its model and warms up, and waits once it
has imported what it needs: it touches the device only when it is its turn.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tools.benchmarks.train_work import MODELS, TINY, TrainWork
from tools.benchmarks.turns import Ratio, spread
from trivium.data_pipeline.errors import InputError
from trivium.engine.flops import known_peak

ROOT = Path(__file__).resolve().parents[2]
PEERS = {
    "engine": "Trivium",
    "megatron": "megatron-core local + torch AdamW",
    "megatron_attention": "the same + torch's fused attention",
    "megatron_liger": "the same + fused attention + Liger",
}
NEEDS = {"megatron_liger": "liger_kernel"}
# model -> tokens/s, MFU with causal attention half and full: the targets on an H200
TARGETS = {"llama-3.2-1b": (52_000, 0.43, 0.48), "llama-8b-16-layers": (18_500, 0.51, 0.57)}
BARS = {"megatron": 1.35, "megatron_liger": 1.05}  # tokens/s, Trivium over theirs
AGREE = 5e-3  # of the first step's loss, relative: bf16


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What to measure, and how long it may take."""

    models: tuple[str, ...] = tuple(MODELS)
    peers: tuple[str, ...] = tuple(PEERS)
    passes: int = 2  # over the peers of a model; every second one backwards
    warmup: int = 5  # steps of a turn that do not count
    steps: int = 8  # steps that do
    profile: bool = False  # one more step of Trivium under torch's profiler
    tiny: bool = False  # a model of 0.1M parameters and one pass, to see that it works: no figures
    seconds: float = 900.0  # in all: turns that would begin later are left out
    patience: float = 180.0  # for one turn
    out: str = ""  # JSON file for every measurement

    def __post_init__(self) -> None:
        for what, given, known in (
            ("models", self.models, MODELS),
            ("peers", self.peers, PEERS),
        ):
            for name in given:
                if name not in known:
                    raise InputError(f"{what}: no {name!r}; known: {', '.join(known)}")
        for what, number in (("passes", self.passes), ("steps", self.steps)):
            if number < 1:
                raise InputError(f"{what} {number}: 1 or more")


@dataclass(frozen=True)
class Turn:
    """One peer on one model in one pass."""

    number: int
    model: str
    peer: str
    work: TrainWork


@dataclass
class Started:
    """The process of a turn: importing, then waiting for a line."""

    turn: Turn
    process: subprocess.Popen[str]

    def finish(self, seconds: float) -> dict[str, Any]:
        """Let it train; what it measured, or {"error": in one line}."""
        try:
            output, said = self.process.communicate("go\n", timeout=max(1.0, seconds))
        except subprocess.TimeoutExpired:
            self.stop()
            return {"error": f"ended after {seconds:.0f} s"}
        if self.process.returncode == 0:
            found: dict[str, Any] = json.loads(output.splitlines()[-1])
            return found
        lines = [line for line in said.splitlines() if line.strip()]
        print("\n".join(lines[-12:]), file=sys.stderr, flush=True)
        last = lines[-1] if lines else f"status {self.process.returncode}"
        return {"error": last[:200]}

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()


Found = dict[str, dict[str, list[dict[str, Any] | None]]]  # model, peer, pass


def compare(asked: Asked) -> Found:
    """Take every turn, the next one's process always started ahead."""
    ends = time.time() + asked.seconds
    models = ["tiny"] if asked.tiny else list(asked.models)
    passes = 1 if asked.tiny else asked.passes
    absent = [peer for peer in asked.peers if peer in NEEDS and not _there(NEEDS[peer])]
    for peer in absent:
        print(f"{peer} is left out: {NEEDS[peer]} is not installed (pip install {NEEDS[peer]})")
    peers = [peer for peer in asked.peers if peer not in absent]
    found: Found = {model: {peer: [None] * passes for peer in peers} for model in models}
    ahead: Started | None = None
    turns = list(_turns(asked, models, peers, passes))
    for index, turn in enumerate(turns):
        if time.time() > ends:
            print(f"left out for lack of time: {len(turns) - index} turns", flush=True)
            break
        if not _runs(found, turn):
            continue
        now = ahead if ahead is not None and ahead.turn == turn else _start(turn)
        coming = next((one for one in turns[index + 1 :] if _runs(found, one)), None)
        ahead = None if coming is None else _start(coming)
        found[turn.model][turn.peer][turn.number] = one = now.finish(
            min(asked.patience, ends - time.time() + 30)
        )
        print(f"{turn.model}: {turn.peer}: {_short(one)}", flush=True)
        if ahead is not None and not _runs(found, ahead.turn):
            ahead.stop()
            ahead = None
    if ahead is not None:
        ahead.stop()
    return found


def _there(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _turns(
    asked: Asked, models: Sequence[str], peers: Sequence[str], passes: int
) -> Iterator[Turn]:
    for number in range(passes):
        for model in models:
            for peer in peers if number % 2 == 0 else peers[::-1]:
                work = TINY
                if model in MODELS:
                    work = replace(MODELS[model], warmup=asked.warmup, steps=asked.steps)
                wanted = asked.profile and peer == "engine" and number == 0
                yield Turn(number, model, peer, replace(work, profile=wanted))


def _runs(found: Found, turn: Turn) -> bool:
    """Is there hope for it? Not where it failed before, or the model was too large."""
    peers = found[turn.model]
    if any(one and "error" in one for one in peers[turn.peer]):
        return False
    errors = [one["error"] for all_ in peers.values() for one in all_ if one and "error" in one]
    return not any(error.startswith("MemoryError") for error in errors)


def _start(turn: Turn) -> Started:
    command = [sys.executable, "-m", "tools.benchmarks.train_peer", turn.peer]
    process = subprocess.Popen(
        [*command, json.dumps(asdict(turn.work))],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")},
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    return Started(turn, process)


def _short(one: dict[str, Any]) -> str:
    if "error" in one:
        return f"failed: {one['error']}"
    ms = statistics.median(one["seconds"]) * 1e3
    return f"{ms:.1f} ms a step, {_rate(one):,.0f} tokens/s, first step {one['first']:.1f} s"


def _rate(one: dict[str, Any]) -> float:
    """Tokens a second in the median step."""
    return float(one["tokens"] / statistics.median(one["seconds"]))


def report(found: Found) -> list[str]:
    """Print tables, ratios and profiles; a line for all of ours that is not as it must be."""
    wrong: list[str] = []
    for model, peers in found.items():
        work = MODELS.get(model, TINY)
        runs = {peer: [one for one in all_ if one] for peer, all_ in peers.items()}
        good = {peer: [one for one in all_ if "error" not in one] for peer, all_ in runs.items()}
        some = next((one for all_ in good.values() for one in all_), None)
        device = some["device"] if some else "no device"
        print(
            f"\n{model}: {work.parameters:,} parameters, {work.micro_batch} x {work.sequence} "
            f"tokens a step, {device}; medians [lowest, highest] over passes"
        )
        print("| | tokens/s | ms a step | MFU, causal half | full | peak GB | loss: first, last |")
        print("|---|---|---|---|---|---|---|")
        for peer, all_ in runs.items():
            print(_row(peer, all_, good[peer], work, device))
        wrong += [f"{model}: {one['error']}" for one in runs.get("engine", []) if "error" in one]
        if not good.get("engine"):
            continue
        for ratio in _ratios(model, peers):
            print(ratio)
        wrong += _disagreeing(model, good)
        for one in good["engine"]:
            if "profile" in one:
                _print_profile(one["profile"])
    return wrong


def _row(
    peer: str, all_: list[dict[str, Any]], good: list[dict[str, Any]], work: TrainWork, device: str
) -> str:
    if not good:
        why = all_[0]["error"] if all_ else "left out for lack of time"
        return f"| {PEERS[peer]} | {why} | | | | | |"
    rates = [_rate(one) for one in good]
    peak = known_peak(device, "bf16")
    shares = ["", ""]
    if peak:
        shares = [f"{statistics.median(rates) * work.flops(f) / peak:.1%}" for f in (False, True)]
    note = f" ({good[0]['note']})" if "note" in good[0] else ""
    cells = [
        PEERS[peer] + note,
        f"{statistics.median(rates):,.0f} [{min(rates):,.0f}, {max(rates):,.0f}]",
        spread([statistics.median(one["seconds"]) * 1e3 for one in good]),
        *shares,
        f"{max(one['peak'] for one in good) / 1e9:.1f}",
        f"{good[0]['losses'][0]:.4f}, {good[0]['losses'][-1]:.4f}",
    ]
    return f"| {' | '.join(cells)} |"


def _ratios(model: str, peers: dict[str, list[dict[str, Any] | None]]) -> Iterator[Ratio]:
    """Trivium over each peer, pass by pass, and over the targets of an H200."""
    ours = peers["engine"]
    for peer, theirs in peers.items():
        pairs = [
            (mine, other)
            for mine, other in zip(ours, theirs, strict=True)
            if mine and other and "error" not in mine and "error" not in other
        ]
        if peer == "engine" or not pairs:
            continue
        rates = [_rate(mine) / _rate(other) for mine, other in pairs]
        bar = BARS.get(peer) if model in MODELS else None
        yield Ratio(f"tokens/s, engine / {peer}", rates, bar)
        if all(other["peak"] for _, other in pairs):
            peaks = [mine["peak"] / other["peak"] for mine, other in pairs]
            yield Ratio(f"peak memory, engine / {peer}", peaks)
    mine = [one for one in ours if one and "error" not in one]
    if model in TARGETS and "H200" in mine[0]["device"]:
        yield Ratio("tokens/s, engine", [_rate(one) for one in mine], TARGETS[model][0])


def _disagreeing(model: str, good: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    first = good["engine"][0]["losses"][0]
    for peer, all_ in good.items():
        for one in all_:
            if not abs(one["losses"][0] - first) <= AGREE * abs(first):
                yield f"{model}: {peer} starts at a loss of {one['losses'][0]}, engine at {first}"


def _print_profile(profile: dict[str, Any]) -> None:
    if "error" in profile:
        print(f"no profile: {profile['error']}")
        return
    busy, wall = profile["busy_ms"], profile["wall_ms"]
    print(f"one step of Trivium, profiled: {busy:.1f} ms of kernels in {wall:.1f} ms of wall time")
    print("| ms | share | calls | kernel |")
    print("|---|---|---|---|")
    for one in profile["top"]:
        name = one["name"].replace("|", "/")[:110]
        print(f"| {one['ms']:.2f} | {one['share']:.1%} | {one['calls']} | {name} |")


def run(asked: Asked) -> None:
    """Measure, print and write `out`, whatever fails; InputError where Trivium did."""
    found = compare(asked)
    wrong = report(found)
    if asked.out:
        Path(asked.out).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if wrong:
        raise InputError("; ".join(wrong))
