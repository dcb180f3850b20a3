"""The process that measures for `kernels.py`: `python -m tools.benchmarks.kernel_worker TOLD`.

TOLD is JSON: what is asked for, and what workers before this one have done or fallen over. Lines on
stdout that begin with MARK tell how far it is. A device that faulted is of no more use: it ends,
and another worker goes on with the next contestant.
"""

from __future__ import annotations

import gc
import importlib
import itertools
import json
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
import torch._dynamo

from tools.benchmarks.kernel_case import Case
from tools.benchmarks.kernel_timing import Contestant, ceilings, on_stream, rotation
from tools.benchmarks.kernels import MARK, PART, Asked, known_parts
from trivium.kernels import library

COMPILED = "compile"  # the contestant whose first call takes seconds
HURRY = 0.4  # share of the time that it must leave for the other contestants
FAULT = 3  # exit status where the device is of no more use


def work(told: dict[str, Any]) -> int:
    """Measure every case that is not done yet, telling of each; the exit status."""
    given = told["asked"]
    tuples = {"parts": tuple(given["parts"]), "without": tuple(given["without"])}
    asked = Asked(**{**given, **tuples})
    ends = time.time() + told["left"]
    with on_stream():
        device = told["device"] or _device(asked)
        if not told["device"]:
            _tell("device", **device)
        for name, case in _cases(asked, told["done"]):
            if name in told["done"]:
                continue
            if time.time() > ends:
                _tell("late", case=name)
                continue
            _tell("doing", case=name)
            hurried = time.time() > ends - HURRY * asked.seconds
            if not _measure(asked, name, case, told["broken"], hurried):
                return FAULT
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            torch._dynamo.reset()  # compile for the shape of each case: dynamic ones are slower
    return 0


def _tell(event: str, **facts: Any) -> None:
    print(MARK + json.dumps({"event": event, **facts}), flush=True)


def _device(asked: Asked) -> dict[str, Any]:
    cuda = torch.cuda.is_available()
    reason = library.load()
    path, _ = library.find()
    return {
        "name": torch.cuda.get_device_name() if cuda else "CPU",
        "cuda": cuda,
        "torch": torch.__version__,
        "kernels": str(path) if reason is None else f"the torch reference ({reason})",
        **ceilings(asked.tiny),
    }


def _cases(asked: Asked, done: Sequence[str]) -> list[tuple[str, Case]]:
    """Every case under its part's name; the first of every part, then the second of every part, so
    that each has some figures when time is up."""
    library.load()
    by_part: list[list[tuple[str, Case]]] = []
    for part in asked.parts or known_parts():
        if part in done:
            continue
        _tell("doing", case=part)
        try:
            module = part if "." in part else f"tools.benchmarks.{PART}{part}"
            cases = importlib.import_module(module).cases(asked.tiny)
        except Exception as error:
            _tell("failed", case=part, contestant="", why=_words(error))
            continue
        by_part.append([(f"{part}: {case.name}", case) for case in cases])
    turns = itertools.zip_longest(*by_part)
    return [named for turn in turns for named in turn if named is not None]


def _measure(asked: Asked, name: str, case: Case, broken: Sequence[Any], hurried: bool) -> bool:
    """Measure one case and tell of it. False where the device is of no more use."""
    try:
        sets = rotation(case.inputs)
    except Exception as error:
        _tell("failed", case=name, contestant="", why=f"inputs: {_words(error)}")
        return _sound()
    ready: dict[str, Contestant] = {}
    for who, call in case.contestants.items():
        if who in asked.without or [name, who] in broken:
            continue
        if hurried and who == COMPILED:
            _tell("late", case=f"{name} / {who}")
            continue
        _tell("doing", case=name, contestant=who)
        try:
            ready[who] = Contestant(call, sets)
        except Exception as error:
            _tell("failed", case=name, contestant=who, why=_words(error))
            if not _sound():
                return False
    _tell("doing", case=name)
    gc.collect()
    rounds: dict[str, list[float]] = {who: [] for who in ready}
    for number in range(asked.rounds):
        for who in list(ready) if number % 2 == 0 else list(reversed(ready)):
            rounds[who].append(ready[who].seconds() * 1e3)
    found = {
        who: {
            "ms": statistics.median(rounds[who]),
            "rounds": rounds[who],
            "peak": one.peak,
            "how": one.how,
        }
        for who, one in ready.items()
    }
    facts = {"bytes": case.bytes, "flops": case.flops, "target": case.target}
    _tell("row", case=name, **facts, sets=len(sets), contestants=found)
    return True


def _sound() -> bool:
    """Does the device still answer? After a fault in a kernel it never does again."""
    if not torch.cuda.is_available():
        return True
    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    except Exception:
        return False
    return True


def _words(error: Exception) -> str:
    """An error in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]


if __name__ == "__main__":
    sys.exit(work(json.loads(sys.argv[1])))
