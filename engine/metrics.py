"""metrics.jsonl: what a run measured, one JSON object a step, and how two runs are compared.

A record maps names to numbers: step, tokens, loss, every further loss under its own name,
grad_norm, lr, where they apply validation_loss, validation_perplexity and skipped, then the clocks
of `TIMING_FIELDS`. Floats are written with `repr`, so that equal bytes mean equal bits; NaN and
infinities, which JSON does not know, are written as null.

The file is part of what a resume must restore: `MetricsLog.truncate_after` takes back the records
that a killed run wrote after its last checkpoint, and the continued run writes them again.
"""

from __future__ import annotations

import json
import math
import numbers
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from trivium.data_pipeline.errors import InputError
from trivium.data_pipeline.files import storage_errors, write_atomic

Record = Mapping[str, Any]

FILE_NAME = "metrics.jsonl"

# What a clock or an allocator said: different in every run, hence never compared.
TIMING_FIELDS = frozenset({"tokens_per_s", "step_seconds", "memory", "mfu"})


def deterministic(record: Record) -> dict[str, Any]:
    """The record without its clocks: equal wherever the arithmetic was."""
    return {name: value for name, value in record.items() if name not in TIMING_FIELDS}


# --- Writing and reading ------------------------------------------------------


class MetricsLog:
    """An open metrics.jsonl; each record is in the file, whole, when `log` returns.

    One unbuffered write a line: what a killed process has logged stays. Creates the folder, and
    drops a half-written last line, on opening. Raises InputError when the disk is full.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with storage_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = open(self.path, "ab", buffering=0)  # noqa: SIM115
            self._mend()

    def log(self, record: Record) -> None:
        """Append one record."""
        line = memoryview(encode(record))
        with storage_errors(self.path):
            while line:
                line = line[self._stream.write(line) :]

    def sync(self) -> None:
        """Make all records survive a power cut; call before their step's checkpoint."""
        with storage_errors(self.path):
            os.fsync(self._stream.fileno())

    def truncate_after(self, step: int) -> int:
        """Drop every record of a later step and return how many; a crash leaves old or new file."""
        records = read_metrics(self.path)
        kept = [record for record in records if record["step"] <= step]
        if len(kept) < len(records):
            self._stream.close()
            write_atomic(self.path, b"".join(map(encode, kept)))
            self._stream = open(self.path, "ab", buffering=0)  # noqa: SIM115
        return len(records) - len(kept)

    def close(self) -> None:
        self._stream.close()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _mend(self) -> None:
        """Cut the file after its last newline."""
        size = self.path.stat().st_size
        with open(self.path, "rb") as stream:
            whole = size
            while whole:
                start = max(0, whole - 4096)
                stream.seek(start)
                newline = stream.read(whole - start).rfind(b"\n")
                whole = start + newline + 1
                if newline >= 0:
                    break
        if whole < size:
            os.truncate(self.path, whole)


def encode(record: Record) -> bytes:
    """One line of metrics.jsonl, newline included."""
    if not isinstance(record.get("step"), numbers.Integral):
        raise ValueError(f"a record needs a whole number as its step, not {record.get('step')!r}")
    plain = {name: _plain(value) for name, value in record.items()}
    return json.dumps(plain, allow_nan=False).encode() + b"\n"


def _plain(value: Any) -> Any:
    """A number of any library as Python's own; null where JSON has no number."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    number = float(value)
    return number if math.isfinite(number) else None


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl, or of the one in a run folder, in the order of the file.

    A last line without a newline was being written when its process died; it is left out. Raises
    InputError for a file that is missing or damaged elsewhere.
    """
    path = Path(path)
    if path.is_dir():
        path = path / FILE_NAME
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; name a run folder or a {FILE_NAME}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    return [_parse(line, path, number) for number, line in enumerate(text.split(b"\n")[:-1], 1)]


def _parse(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        record = json.loads(line)
        if type(record["step"]) is not int:
            raise TypeError
    except (ValueError, TypeError, KeyError):
        raise InputError(
            f"{path}: line {number} is not a JSON object with a step; the file was damaged after "
            "it was written: restore it, or move it away to start a new one"
        ) from None
    assert isinstance(record, dict)
    return record


# --- Comparing ----------------------------------------------------------------


class Difference(NamedTuple):
    """Where one field of two runs differs most. A value that one run lacks is infinitely far."""

    relative: float
    step: int
    a: Any
    b: Any


@dataclass(frozen=True)
class Comparison:
    """How far two runs are apart, over the steps that both have."""

    steps: list[int]
    missing: list[int]  # steps inside the common range that only one run has
    fields: dict[str, Difference]

    @property
    def largest(self) -> float:
        """Largest relative difference of any field; infinite where a step or a value is missing."""
        if self.missing:
            return math.inf
        return max((one.relative for one in self.fields.values()), default=0.0)

    @property
    def identical(self) -> bool:
        """Are all values the same, bit for bit?"""
        return self.largest == 0.0


def compare(a: Iterable[Record], b: Iterable[Record]) -> Comparison:
    """Compare everything but clocks, step by step. Relative to the larger magnitude of the two."""
    left, right = ({record["step"]: deterministic(record) for record in run} for run in (a, b))
    steps = sorted(left.keys() & right.keys())
    fields: dict[str, Difference] = {}
    for step in steps:
        for name in {**left[step], **right[step]}:
            if name == "step":
                continue
            values = left[step].get(name), right[step].get(name)
            found = Difference(_relative(*values), step, *values)
            if name not in fields or found.relative > fields[name].relative:
                fields[name] = found
    missing = [s for s in sorted(left.keys() ^ right.keys()) if steps and steps[0] < s < steps[-1]]
    return Comparison(steps, missing, fields)


def _relative(a: Any, b: Any) -> float:
    if a == b:
        return 0.0
    if not all(isinstance(value, int | float) for value in (a, b)):
        return math.inf
    return float(abs(a - b) / max(abs(a), abs(b)))
