"""Which clusters of near-duplicates a report shows, and which stretch of their texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .model import Cluster, Member, clipped

CLUSTERS = 20
MEMBERS = 4  # of a cluster
PIECE = 2000  # characters of a member
_BEFORE = 160  # characters that are alike, before the first that differ


class Document(NamedTuple):
    """A document by its parts that a report shows; `text` is whole."""

    source: str
    id: str
    text: str


@dataclass(frozen=True)
class Chosen:
    """A cluster that is shown, by the numbers of its documents. The one that is kept is first."""

    size: int
    rows: tuple[int, ...]
    kept: tuple[bool, ...]
    similarities: tuple[float | None, ...]  # with the first; None where the two were not compared


def chosen(
    labels: NDArray[np.int64],
    keep: NDArray[np.bool_],
    pairs: NDArray[np.int64],
    similarities: NDArray[np.float64],
    *,
    sizes: NDArray[np.int64] | None = None,
    clusters: int = CLUSTERS,
    members: int = MEMBERS,
) -> Iterator[Chosen]:
    """The clusters of most documents, largest first; of each the one that is kept and the largest.

    labels, keep, pairs, similarities: as `dedup.near.Result` has them. sizes: int64 [documents],
    of the texts; without, the first members are taken. Equals come in the order of the corpus.
    """
    counts = np.bincount(labels, minlength=1)
    several = np.flatnonzero(counts > 1)
    shown = several[np.lexsort((several, -counts[several]))][:clusters]
    rows = np.flatnonzero(np.isin(labels, shown))
    weight = np.zeros(len(rows), np.int64) if sizes is None else sizes[rows]
    order = rows[np.lexsort((rows, -weight, ~keep[rows]))]
    found = {int(label): order[labels[order] == label][:members].tolist() for label in shown}
    wanted = np.isin(labels[pairs[:, 0]], shown) if len(pairs) else np.zeros(0, bool)
    known = {
        (int(a), int(b)): float(similarity)
        for (a, b), similarity in zip(pairs[wanted], similarities[wanted], strict=True)
    }
    for label in shown:
        first, *_ = of = found[int(label)]
        yield Chosen(
            int(counts[label]),
            tuple(of),
            tuple(bool(keep[row]) for row in of),
            tuple(known.get((min(row, first), max(row, first))) for row in of),
        )


def cluster(choice: Chosen, document: Callable[[int], Document]) -> Cluster:
    """What is shown of a cluster; `document` gives one by its number."""
    documents = [document(row) for row in choice.rows]
    start, pieces = stretch([one.text for one in documents])
    return Cluster(
        choice.size,
        tuple(
            Member(
                clipped(one.source), clipped(one.id), piece, kept, similarity, start, len(one.text)
            )
            for one, piece, kept, similarity in zip(
                documents, pieces, choice.kept, choice.similarities, strict=True
            )
        ),
    )


def stretch(texts: Sequence[str], length: int = PIECE) -> tuple[int, list[str]]:
    """(start, pieces): `length` characters of every text, from a little before they differ.

    Where a text runs on alike to its end, the pieces begin early enough to be full.
    """
    start = max(0, common_prefix(texts) - _BEFORE)
    start = min(start, max(0, max(map(len, texts), default=0) - length))
    return start, [text[start : start + length] for text in texts]


def common_prefix(texts: Sequence[str]) -> int:
    """Characters that all `texts` begin with, by bisection."""
    if not texts:
        return 0
    least, most = min(texts), max(texts)
    low, high = 0, min(len(least), len(most))
    while low < high:
        middle = (low + high + 1) // 2
        if least[low:middle] == most[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
