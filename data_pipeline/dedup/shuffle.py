"""Bringing equal keys together from all parts of a corpus, in the memory of one range of keys.

Every part writes its entries as runs: files sorted by key. Whoever works on a range of keys reads
one contiguous piece of every run, so how many ranges there are is decided when the number of
entries is known, and no run is read in small pieces.

An entry is a key, a check (more bits of the same hash, or nothing) and the row of its document in
the part; a reader puts the part's number above the row, so a part can be compared again later, in
another corpus, under another number.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

ENTRY = np.dtype([("key", "<u8"), ("check", "<u8"), ("document", "<u8")])
Entries = NDArray[np.void]

_ROW_BITS = 32
_RUN = 1 << 20  # entries: 24 MiB
RANGE = 1 << 20  # entries of one range, on average


def document_numbers(part: int, rows: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Numbers of documents, ordered as the corpus is: by part, then by row."""
    if not 0 <= part < 1 << 31 or (len(rows) and int(rows.max()) >= 1 << _ROW_BITS):
        raise ValueError(f"part {part}: 2^31 parts of 2^32 rows can be numbered")
    return rows + np.uint64(part << _ROW_BITS)


def part_and_row(documents: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The inverse of `document_numbers`."""
    return documents >> np.uint64(_ROW_BITS), documents & np.uint64((1 << _ROW_BITS) - 1)


def first_number(part: int) -> int:
    """No document of `part` or a later one has a smaller number."""
    return part << _ROW_BITS


def entries(
    key: NDArray[np.uint64], check: NDArray[np.uint64], document: NDArray[np.uint64]
) -> Entries:
    """Arrays of one length as entries."""
    result = np.empty(len(key), ENTRY)
    result["key"], result["check"], result["document"] = key, check, document
    return result


def in_order(found: Entries) -> Entries:
    """Sorted by key, check and document."""
    return found[np.lexsort((found["document"], found["check"], found["key"]))]


class EntryWriter:
    """The entries of a part, written into `folder` as runs of bounded size."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.total = 0
        self._held: list[Entries] = []
        self._size = 0
        self._runs = 0

    def add(self, found: Entries) -> None:
        """Take entries, in any order; `document` is a row of the part."""
        self._held.append(found)
        self._size += len(found)
        self.total += len(found)
        if self._size >= _RUN:
            self._write()

    def close(self) -> None:
        """Write what is left."""
        if self._size:
            self._write()

    def _write(self) -> None:
        found = in_order(np.concatenate(self._held))
        found.tofile(self.folder / f"{self._runs:05d}.entries")
        self._held, self._size, self._runs = [], 0, self._runs + 1

    def __enter__(self) -> EntryWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()


def runs_of(folder: Path) -> list[Entries]:
    """The runs of one part, mapped into memory."""
    files = sorted(folder.glob("*.entries"))
    return [np.asarray(np.memmap(file, ENTRY, mode="r")) for file in files if file.stat().st_size]


def count_ranges(total: int, limit: int | None = None) -> int:
    """How many ranges keep one within `limit` entries (RANGE) on average: hashes are even."""
    return max(1, -(-total // (limit or RANGE)))


def read_range(folders: Sequence[Path], number: int, ranges: int) -> Entries:
    """The entries of one range of keys from all parts, sorted; documents by their numbers."""
    low = np.uint64((number << 64) // ranges)
    high = ((number + 1) << 64) // ranges  # 2^64 in the last range
    found = []
    for part, folder in enumerate(folders):
        for run in runs_of(folder):
            keys = run["key"]  # bisect, because searchsorted would copy them all
            first = bisect_left(keys, low)
            last = len(run) if high >> 64 else bisect_left(keys, np.uint64(high))
            piece = run[first:last].copy()
            piece["document"] = document_numbers(part, piece["document"])
            found.append(piece)
    return in_order(np.concatenate(found)) if found else np.empty(0, ENTRY)


def groups(found: Entries) -> NDArray[np.int64]:
    """Of every sorted entry the place of the first with an equal key and check, int64 [entries]."""
    begins = np.ones(len(found), bool)
    same = found["key"][1:] == found["key"][:-1]
    begins[1:] = ~(same & (found["check"][1:] == found["check"][:-1]))
    starts = np.flatnonzero(begins)
    return starts[np.cumsum(begins) - 1]


def followers(found: Entries) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Of every group of equal key and check in sorted entries: (follower, its leader), as numbers.

    The leader of a group is its first document; a document that has an entry twice does not follow
    itself.
    """
    if len(found) == 0:
        return np.empty(0, np.uint64), np.empty(0, np.uint64)
    leader = found["document"][groups(found)]
    follows = found["document"] != leader
    return found["document"][follows], leader[follows]
