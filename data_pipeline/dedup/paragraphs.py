"""Paragraphs or lines that an earlier document already has: taken out of the text.

Boilerplate (menus, licences, signatures) repeats across documents that are not duplicates as a
whole (CCNet, arXiv 1911.00359, section 3.1, removes it by the hash of each paragraph). The first
document that has a paragraph keeps it, once.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from ..errors import InputError
from ..stages.stage import Stage, Verdict, with_texts
from ..tasks import Facts, Task
from .shuffle import Entries, entries, first_number, groups, part_and_row, read_range
from .whole import Perform, Rows, Sketches, Whole, copy_entries

# A paragraph to take out of a document; where `once`, only from its second occurrence on.
_FOUND = np.dtype([("document", "<u8"), ("key", "<u8"), ("check", "<u8"), ("once", "u1")])
_SEPARATOR = {"paragraph": re.compile(r"\n\s*\n"), "line": re.compile(r"\n")}


@dataclass(frozen=True, kw_only=True)
class ParagraphDuplicates(Whole):
    """Takes paragraphs out that an earlier document has, white space aside; drops what is empty."""

    unit: Literal["paragraph", "line"] = "paragraph"  # ends at a blank line, or at each newline
    min_characters: int = 20  # shorter ones stay: headings, list marks, closing brackets
    reason = "only duplicate paragraphs"

    def __post_init__(self) -> None:
        if self.unit not in _SEPARATOR:
            raise InputError(f"unit {self.unit!r}: one of {', '.join(_SEPARATOR)}")
        if self.min_characters < 1:
            raise InputError(f"min_characters {self.min_characters}: 1 or more")

    def entries(self, documents: pa.Table, rows: Rows) -> Entries:
        """By XXH3-128 of every paragraph, its white space made single spaces."""
        digests, counts = list[bytes](), list[int]()
        for text in documents.column("text").to_pylist():
            found = [digest for _, _, digest in self.units(text) if digest is not None]
            digests += found
            counts.append(len(found))
        keys, checks = _halves(digests)
        return entries(keys, checks, rows.repeat(np.array(counts, np.int64)))

    def units(self, text: str) -> Iterator[tuple[int, int, bytes | None]]:
        """(begin, end with the separator, hash) of every paragraph; no hash where it is short."""
        begin = 0
        ends = [(match.start(), match.end()) for match in _SEPARATOR[self.unit].finditer(text)]
        for end, after in [*ends, (len(text), len(text))]:
            folded = " ".join(text[begin:end].split())
            long = len(folded) >= self.min_characters
            yield begin, after, xxhash.xxh3_128_digest(folded.encode()) if long else None
            begin = after

    def resolve(self, sketches: Sketches, out: Path, perform: Perform) -> Facts:
        """Compare by range of hashes, then hand every part what is to be taken out of it."""
        found = self.compare(sketches, out, perform, compare_paragraphs)
        parts = (sketches.earlier, len(sketches.folders))
        return perform([Task(out / "drops", share_out, {"found": found, "parts": parts})])[0]

    def stage(self, decided: Path) -> Stage:
        """Takes the paragraphs of a part out."""
        return _TakeOut(self, np.load(decided))

    def keep(self, sketch: Path, decided: Path, out: Path) -> int:
        """Copy of a sketch."""
        return copy_entries(sketch, out, lambda found: np.ones(len(found), bool))


class _TakeOut:
    def __init__(self, stage: ParagraphDuplicates, found: NDArray[np.void]) -> None:
        self.stage, self.found, self.seen = stage, found, 0

    def __call__(self, documents: pa.Table) -> Verdict:
        """Edit the next batch of the part."""
        first, self.seen = self.seen, self.seen + len(documents)
        edges = np.searchsorted(self.found["document"], np.arange(first, self.seen + 1))
        texts = documents.column("text").to_pylist()
        reasons: list[str | None] = [None] * len(texts)
        for row, (begin, end) in enumerate(pairwise(edges.tolist())):
            if begin < end:
                texts[row] = self._without(texts[row], self.found[begin:end])
                reasons[row] = (
                    None if texts[row] and not texts[row].isspace() else self.stage.reason
                )
        edited, changed = with_texts(documents, texts)
        return Verdict(edited, pa.array(reasons, pa.string()), changed)

    def _without(self, text: str, found: NDArray[np.void]) -> str:
        out = {
            int(key).to_bytes(8, "big") + int(check).to_bytes(8, "big"): bool(once)
            for key, check, once in zip(found["key"], found["check"], found["once"], strict=True)
        }
        kept, cut = list[str](), False
        for begin, end, digest in self.stage.units(text):
            once = out.get(digest) if digest is not None else None
            cut = once is False
            if once:
                out[digest] = False  # type: ignore[index]  # it was found under it
            if not cut:
                kept.append(text[begin:end])
        joined = "".join(kept)
        return joined.rstrip() if cut else joined  # the separator before what was the end


def compare_paragraphs(
    folder: Path, *, stage: ParagraphDuplicates, entries: Sequence[str], number: int, ranges: int
) -> Facts:
    """What is to be taken out, of one range of hashes, in order of documents."""
    del stage
    every = read_range([Path(path) for path in entries], number, ranges)
    first = groups(every) if len(every) else np.empty(0, np.int64)
    again = np.flatnonzero(first != np.arange(len(every)))
    found = np.empty(len(again), _FOUND)
    for name in ("document", "key", "check"):
        found[name] = every[name][again]
    found["once"] = every["document"][again] == every["document"][first[again]]
    found = np.unique(found)
    np.save(folder / "found.npy", found)
    return {"paragraphs": len(found)}


def share_out(folder: Path, *, found: Sequence[str], parts: tuple[int, int]) -> Facts:
    """For every part of this corpus what is to be taken out, by row."""
    files = [np.load(Path(path) / "found.npy", mmap_mode="r") for path in found]
    documents = paragraphs = 0
    for part in range(*parts):
        edges = (first_number(part), first_number(part + 1))
        pieces = [
            np.asarray(file[slice(*(bisect_left(file["document"], edge) for edge in edges))])
            for file in files
        ]
        mine = np.sort(np.concatenate(pieces), order=["document", "key", "check"])
        mine["document"] = part_and_row(mine["document"])[1]
        np.save(folder / f"{part - parts[0]:05d}.npy", mine)
        paragraphs += len(mine)
        documents += len(np.unique(mine["document"]))
    return {"documents": documents, "paragraphs": paragraphs}


def _halves(digests: Sequence[bytes]) -> tuple[NDArray[np.uint64], Any]:
    halves = np.frombuffer(b"".join(digests), ">u8").reshape(-1, 2).astype(np.uint64)
    return halves[:, 0], halves[:, 1]
