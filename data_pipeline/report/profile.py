"""Languages and lengths of documents, added up over batches and parts in any order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from ..stages.language import UNDETERMINED
from .model import Lengths

# Ten bins for each factor of ten (the preferred numbers R10 of ISO 3), whole numbers only. The last
# edge is far above any document that can be read.
_R10 = np.array([100, 125, 160, 200, 250, 315, 400, 500, 630, 800])
EDGES = np.unique(-(-np.outer(10 ** np.arange(12), _R10).ravel() // 100))


@dataclass
class Profile:
    """Documents by language and by length in characters."""

    languages: dict[str, int] = field(default_factory=dict)  # of documents that were asked
    lengths: dict[int, int] = field(default_factory=dict)  # first length of a bin -> documents
    shortest: int | None = None
    longest: int = 0
    characters: int = 0

    @staticmethod
    def of(documents: pa.Table) -> Profile:
        """Of a batch. Languages are its column `language`, where a stage has made one."""
        profile = Profile()
        if not len(documents):
            return profile
        sizes = pa.compute.utf8_length(documents.column("text")).to_numpy()
        profile.characters = int(sizes.sum())
        profile.shortest, profile.longest = int(sizes.min()), int(sizes.max())
        bins = np.bincount(np.searchsorted(EDGES, np.maximum(sizes, 1), side="right") - 1)
        profile.lengths = {int(EDGES[i]): int(bins[i]) for i in np.flatnonzero(bins)}
        if "language" in documents.column_names:
            counted = pa.compute.value_counts(documents.column("language"))
            for code, count in zip(*(part.to_pylist() for part in counted.flatten()), strict=True):
                code = UNDETERMINED if code is None else code
                profile.languages[code] = profile.languages.get(code, 0) + count
        return profile

    def add(self, other: Profile) -> None:
        """Count another part of the corpus in."""
        for mine, theirs in (
            (self.languages, other.languages),
            (self.lengths, other.lengths),
        ):
            _add(mine, theirs)
        known = [one for one in (self.shortest, other.shortest) if one is not None]
        self.shortest = min(known, default=None)
        self.longest = max(self.longest, other.longest)
        self.characters += other.characters

    def to_json(self) -> dict[str, Any]:
        """Plain types, keys in order."""
        return {
            **vars(self),
            "languages": dict(sorted(self.languages.items())),
            "lengths": {str(edge): count for edge, count in sorted(self.lengths.items())},
        }

    @staticmethod
    def from_json(plain: Mapping[str, Any]) -> Profile:
        """The inverse of `to_json`."""
        lengths = {int(edge): count for edge, count in plain["lengths"].items()}
        return Profile(**{**plain, "languages": dict(plain["languages"]), "lengths": lengths})

    def histogram(self) -> Lengths:
        """The lengths, from the first bin that holds any to the last."""
        if not self.lengths:
            return Lengths()
        first = int(np.searchsorted(EDGES, min(self.lengths)))
        last = int(np.searchsorted(EDGES, max(self.lengths)))
        edges = EDGES[first : last + 2].tolist()
        counts = tuple(self.lengths.get(edge, 0) for edge in edges[:-1])
        return Lengths(tuple(edges), counts, self.shortest or 0, self.longest, self.characters)


def _add(mine: dict[Any, int], theirs: Mapping[Any, int]) -> None:
    for key, count in theirs.items():
        mine[key] = mine.get(key, 0) + count
