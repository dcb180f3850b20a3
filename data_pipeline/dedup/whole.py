"""Stages over a whole corpus: documents are compared with all others, not judged alone.

Each part of the corpus is sketched beside its documents (`Sketch`), the sketches of all parts are
compared by tasks of bounded memory (`Whole.resolve`), and what was found is carried out when the
documents of a part are next read (`Whole.stage`). Sketches of earlier corpora can be compared with
as well; their documents come first, so it is the new ones that go.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray

from ..stages.stage import Stage, Verdict
from ..tasks import Facts, Task
from .exact import text_entries, url_entries
from .shuffle import (
    Entries,
    EntryWriter,
    count_ranges,
    first_number,
    followers,
    part_and_row,
    read_range,
    runs_of,
)

Perform = Callable[[Sequence[Task]], list[Facts]]  # run tasks, give their facts in order
Rows = NDArray[np.uint64]  # of a part


@dataclass(frozen=True)
class Sketches:
    """What is compared: the sketches of earlier corpora's parts, then of this corpus's."""

    folders: tuple[Path, ...]
    earlier: int  # so many of them are earlier corpora's
    entries: int  # of all

    @property
    def fresh(self) -> int:
        """Parts of this corpus."""
        return len(self.folders) - self.earlier


class Sketch:
    """A part as it is compared, written into `folder` batch by batch."""

    def __init__(self, folder: Path, entries: Callable[[pa.Table, Rows], Entries]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.writer = EntryWriter(folder / "entries")
        self.rows = 0
        self._entries = entries

    @property
    def entries(self) -> int:
        """Entries so far."""
        return self.writer.total

    def add(self, documents: pa.Table) -> None:
        """Take the next batch of the part."""
        rows = np.arange(self.rows, self.rows + len(documents), dtype=np.uint64)
        self.rows += len(documents)
        self.writer.add(self._entries(documents, rows))

    def close(self) -> None:
        """Write what is left."""
        self.writer.close()

    def __enter__(self) -> Sketch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()


class Whole:
    """Documents with an equal entry are duplicates; the first of them stays."""

    reason: ClassVar[str]  # for the others

    def entries(self, documents: pa.Table, rows: Rows) -> Entries:
        """What documents are compared by; `rows` are theirs in the part."""
        raise NotImplementedError

    def sketch(self, folder: Path) -> Sketch:
        """A sketch to be filled, in a folder that need not be there."""
        return Sketch(folder, self.entries)

    def resolve(self, sketches: Sketches, out: Path, perform: Perform) -> Facts:
        """Compare, and write `<part>.npy` into `out`/drops for every part of this corpus.

        The facts are those of the decision, as reports want them.
        """
        pairs = self.compare(sketches, out, perform, compare_equal)
        task = Task(
            out / "drops", drop_followers, {"pairs": pairs, "parts": _numbers_of_parts(sketches)}
        )
        return perform([task])[0]

    def compare(
        self, sketches: Sketches, out: Path, perform: Perform, work: Callable[..., Facts]
    ) -> list[str]:
        """Let `work` compare every range of keys; the folders that it made."""
        ranges = count_ranges(sketches.entries)
        folders = [str(folder / "entries") for folder in sketches.folders]
        tasks = [
            Task(
                out / "pairs" / f"{number:05d}",
                work,
                {"stage": self, "entries": folders, "number": number, "ranges": ranges},
            )
            for number in range(ranges)
        ]
        perform(tasks)
        return [str(task.output) for task in tasks]

    def stage(self, decided: Path) -> Stage:
        """The stage that carries out what `resolve` wrote for a part."""
        return LeaveOut(np.load(decided), self.reason)

    def keep(self, sketch: Path, decided: Path, out: Path) -> int:
        """Copy of a sketch without what was dropped, for later corpora; its entries."""
        dropped = np.load(decided)
        return copy_entries(sketch, out, lambda found: ~np.isin(found["document"], dropped))


@dataclass(frozen=True)
class ExactDuplicates(Whole):
    """The same text, byte for byte."""

    reason = "exact duplicate"

    def entries(self, documents: pa.Table, rows: Rows) -> Entries:
        """By XXH3-128 of the text."""
        return text_entries(documents, rows)


@dataclass(frozen=True)
class UrlDuplicates(Whole):
    """The same page: equal URLs after normalisation (`exact.normal_url`)."""

    reason = "same URL"

    def entries(self, documents: pa.Table, rows: Rows) -> Entries:
        """By XXH3-128 of the URL."""
        return url_entries(documents, rows)


class LeaveOut:
    """Drops rows by their number in the part."""

    def __init__(self, rows: Rows, reason: str) -> None:
        self.rows, self.reason, self.seen = rows, reason, 0

    def __call__(self, documents: pa.Table) -> Verdict:
        """Judge the next batch of the part."""
        numbers = np.arange(self.seen, self.seen + len(documents), dtype=np.uint64)
        self.seen += len(documents)
        out = pa.array(np.isin(numbers, self.rows))
        reasons = pa.compute.if_else(out, pa.scalar(self.reason), pa.scalar(None, pa.string()))
        return Verdict(documents, reasons)


# --- Tasks ---------------------------------------------------------------------


def compare_equal(
    folder: Path, *, stage: Whole, entries: Sequence[str], number: int, ranges: int
) -> Facts:
    """Duplicates among the entries of one range of keys, from all parts."""
    follower, leader = followers(read_range([Path(path) for path in entries], number, ranges))
    np.save(folder / "pairs.npy", np.stack([follower, leader], axis=1))
    return {"pairs": len(follower)}


def drop_followers(folder: Path, *, pairs: Sequence[str], parts: tuple[int, int]) -> Facts:
    """Rows to leave out of every part of this corpus, the parts from parts[0] to parts[1] - 1."""
    found = [np.load(Path(path) / "pairs.npy")[:, 0] for path in pairs]
    return write_drops(folder, np.unique(np.concatenate(found)), parts)


def write_drops(folder: Path, documents: NDArray[np.uint64], parts: tuple[int, int]) -> Facts:
    """One array of rows a part, of `documents` in order."""
    edges = [first_number(part) for part in range(parts[0], parts[1] + 1)]
    bounds = np.searchsorted(documents, np.array(edges, np.uint64)).tolist()
    for number, (first, last) in enumerate(pairwise(bounds)):
        np.save(folder / f"{number:05d}.npy", part_and_row(documents[first:last])[1])
    return {"documents": bounds[-1] - bounds[0]}


def _numbers_of_parts(sketches: Sketches) -> tuple[int, int]:
    return sketches.earlier, len(sketches.folders)


def copy_entries(sketch: Path, out: Path, stays: Callable[[Entries], NDArray[Any]]) -> int:
    """The entries of a sketch that stay, into `out`; how many."""
    with EntryWriter(out / "entries") as writer:
        for run in runs_of(sketch / "entries"):
            writer.add(run[stays(run)])
        return writer.total
