"""Sets of shingle hashes of a part on disk, read where a pair needs them.

shingles.u64   the hashes of every document, ascending and different, document after document
offsets.npy    int64 [documents + 1], where each one's begin
scores.npy     float32 [documents], which of near-duplicates is the better one
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .shuffle import part_and_row
from .verify import Sets, jaccard, sorted_sets

_GATHERED = 8 << 20  # hashes of the sets in memory at a time: 64 MiB
_VALUES, _OFFSETS, _SCORES = "shingles.u64", "offsets.npy", "scores.npy"


class SetWriter:
    """The sets of a part, written batch by batch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lengths: list[NDArray[np.int64]] = [np.zeros(1, np.int64)]
        self._scores: list[NDArray[np.float32]] = [np.empty(0, np.float32)]
        self._stream = open(folder / _VALUES, "wb")  # noqa: SIM115  (closed by `close`)

    def add(
        self,
        hashes: NDArray[np.uint64],
        offsets: NDArray[np.int64],
        scores: NDArray[np.floating],
        wanted: NDArray[np.bool_] | None = None,
    ) -> None:
        """Take sequences hashes[offsets[i] : offsets[i + 1]]; what is not wanted is left empty."""
        sets = sorted_sets(hashes, offsets, wanted)
        values = np.empty(int((sets.ends - sets.begins).sum()), np.uint64)
        _gather(sets.values, sets.begins, sets.ends, values, 0)
        values.tofile(self._stream)
        self._lengths.append(sets.ends - sets.begins)
        self._scores.append(scores.astype(np.float32))

    def close(self) -> None:
        """Write what is left."""
        self._stream.close()
        np.save(self.folder / _OFFSETS, np.cumsum(np.concatenate(self._lengths)))
        np.save(self.folder / _SCORES, np.concatenate(self._scores))


class StoredSets:
    """The sets of one part, mapped into memory."""

    def __init__(self, folder: Path) -> None:
        file = folder / _VALUES
        empty = file.stat().st_size == 0
        self.values: NDArray[np.uint64] = (
            np.empty(0, np.uint64) if empty else np.asarray(np.memmap(file, np.uint64, mode="r"))
        )
        self.offsets: NDArray[np.int64] = np.load(folder / _OFFSETS, mmap_mode="r")
        self.scores: NDArray[np.float32] = np.load(folder / _SCORES, mmap_mode="r")

    def __len__(self) -> int:
        return len(self.scores)


class Library:
    """The sets of all parts of a corpus, opened when they are first asked for."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = folders
        self._open: dict[int, StoredSets] = {}

    def part(self, number: int) -> StoredSets:
        """One part's."""
        if number not in self._open:
            self._open[number] = StoredSets(self._folders[number])
        return self._open[number]

    def sizes(self, documents: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Members of the sets of `documents`, which are numbers in order."""
        out = np.empty(len(documents), np.int64)
        for stored, rows, place in self._by_part(documents):
            out[place] = stored.offsets[rows + 1] - stored.offsets[rows]
        return out

    def scores(self, documents: NDArray[np.uint64]) -> NDArray[np.float64]:
        """Scores of `documents`, which are numbers in order."""
        out = np.empty(len(documents), np.float64)
        for stored, rows, place in self._by_part(documents):
            out[place] = stored.scores[rows]
        return out

    def similarities(self, pairs: NDArray[np.uint64]) -> NDArray[np.float64]:
        """Jaccard similarity of every pair of document numbers [pairs, 2], float64 [pairs]."""
        documents, places = np.unique(pairs, return_inverse=True)
        places = places.reshape(-1, 2)
        sizes = self.sizes(documents)[places].sum(axis=1)
        out = np.empty(len(pairs), np.float64)
        first, ends = 0, np.cumsum(sizes)
        while first < len(pairs):
            before = int(ends[first - 1]) if first else 0
            last = max(first + 1, int(np.searchsorted(ends, before + _GATHERED, "right")))
            needed, inside = np.unique(places[first:last], return_inverse=True)
            out[first:last] = jaccard(self._gathered(documents[needed]), inside.reshape(-1, 2))
            first = last
        return out

    def _gathered(self, documents: NDArray[np.uint64]) -> Sets:
        sizes = self.sizes(documents)
        ends = np.cumsum(sizes)
        values = np.empty(int(sizes.sum()), np.uint64)
        for stored, rows, place in self._by_part(documents):
            begins, stops = stored.offsets[rows], stored.offsets[rows + 1]
            _gather(
                stored.values, begins, stops, values, int(ends[place.start] - sizes[place.start])
            )
        return Sets(values, ends - sizes, ends)

    def _by_part(
        self, documents: NDArray[np.uint64]
    ) -> list[tuple[StoredSets, NDArray[np.int64], slice]]:
        part, row = part_and_row(documents)
        numbers, starts = np.unique(part, return_index=True)
        bounds = [*starts.tolist(), len(documents)]
        return [
            (self.part(int(number)), row[a:b].astype(np.int64), slice(a, b))
            for number, a, b in zip(numbers, bounds[:-1], bounds[1:], strict=True)
        ]


@njit(cache=True, nogil=True)
def _gather(
    values: NDArray[np.uint64],
    begins: NDArray[np.int64],
    ends: NDArray[np.int64],
    out: NDArray[np.uint64],
    at: int,
) -> None:
    """Copy pieces of `values` to `out`, one after the other, the first to out[at]."""
    for number in range(len(begins)):
        for place in range(begins[number], ends[number]):
            out[at] = values[place]
            at += 1
