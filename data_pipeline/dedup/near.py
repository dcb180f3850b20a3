"""Near-duplicates of a corpus in memory: signatures, buckets, exact verification, clusters.

The parts alone, over files and partitions, are in the modules beside this one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..errors import InputError
from ..stages.stage import Texts
from .components import clusters, kept
from .lsh import Bands, band_hashes, candidate_pairs
from .minhash import MinHash
from .shingles import Shingling, shingles
from .verify import jaccard, sorted_sets

TOGETHER = 256  # documents of one batch: what lies between two kernels stays small


@dataclass(frozen=True, kw_only=True)
class Near:
    """What counts as a near-duplicate, and how candidates are found."""

    threshold: float = 0.8  # least Jaccard similarity of the sets of shingles, above 0 to 1
    seed: int = 1  # of the permutations
    shingling: Shingling = field(default_factory=Shingling)
    bands: Bands = field(default_factory=Bands)

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise InputError(f"threshold {self.threshold}: above 0, at most 1")


@dataclass(frozen=True)
class Sketch:
    """What is kept of documents to compare them with others, under one `Near`.

    bands: uint64 [documents, bands]. hashes: uint64 [shingles], offsets: int64 [documents + 1] into
    it. About 1.2 bytes for a byte of English, and 200 for a document.
    """

    bands: NDArray[np.uint64]
    hashes: NDArray[np.uint64]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.bands)


@dataclass(frozen=True)
class Result:
    """Clusters of near-duplicates.

    clusters: int64 [documents], the first document of each one's cluster. keep: bool [documents],
    one of each cluster. pairs: int64 [pairs, 2], first < second, the candidates at or above the
    threshold, each once; similarities: float64 [pairs], their Jaccard similarity.
    """

    clusters: NDArray[np.int64]
    keep: NDArray[np.bool_]
    pairs: NDArray[np.int64]
    similarities: NDArray[np.float64]


def near_duplicates(
    texts: Sequence[str] | pa.Table,
    options: Near | None = None,
    scores: NDArray[np.floating] | None = None,
) -> Result:
    """Near-duplicates among `texts`, or the texts of a batch of documents.

    scores: [documents], higher is better; of a cluster the best stays, or the first of equals. A
    text without words is nobody's duplicate. Raises InputError where a text is not Unicode.
    """
    options = options or Near()
    return resolve([sketch(part, options) for part in _parts(texts)], options, scores)


def sketch(texts: Texts, options: Near) -> Sketch:
    """Sketch of a batch of texts."""
    minhash = MinHash(permutations=options.bands.permutations, seed=options.seed)
    found = shingles(texts, options.shingling)
    hashes = minhash.hashes(found)
    signatures = minhash.signatures(hashes, found.offsets)
    return Sketch(band_hashes(signatures, options.bands), hashes, found.offsets)


def join(sketches: Sequence[Sketch], options: Near) -> Sketch:
    """One sketch of all documents, in order."""
    ends = np.cumsum([0, *(int(part.offsets[-1]) for part in sketches)])
    shifted = [part.offsets[1:] + end for part, end in zip(sketches, ends, strict=False)]
    none = np.empty(0, np.uint64)
    return Sketch(
        np.concatenate([none.reshape(0, options.bands.bands), *(part.bands for part in sketches)]),
        np.concatenate([none, *(part.hashes for part in sketches)]),
        np.concatenate([np.zeros(1, np.int64), *shifted]),
    )


def resolve(
    sketches: Sequence[Sketch], options: Near, scores: NDArray[np.floating] | None = None
) -> Result:
    """Near-duplicates among the documents of all `sketches`, numbered in their order.

    Sketches of earlier corpora come first, so without scores it is their documents that stay.
    """
    whole = join(sketches, options)
    count = len(whole)
    documents = np.flatnonzero(np.diff(whole.offsets))
    pairs = candidate_pairs(
        whole.bands[documents].ravel(), documents.repeat(options.bands.bands), options.bands
    )
    wanted = np.zeros(count, bool)
    wanted[pairs] = True
    similarities = jaccard(sorted_sets(whole.hashes, whole.offsets, wanted), pairs)
    verified = similarities >= options.threshold
    pairs, similarities = pairs[verified], similarities[verified]
    labels = clusters(count, pairs)
    return Result(labels, kept(labels, scores), pairs, similarities)


def _parts(texts: Sequence[str] | pa.Table) -> Iterator[Texts]:
    for first in range(0, len(texts), TOGETHER):
        part = texts[first : first + TOGETHER]
        if not isinstance(texts, pa.Table):
            try:
                part = pa.table({"text": pa.array(part, pa.large_string())})
            except UnicodeEncodeError as error:
                raise InputError(
                    f"texts {first} to {first + len(part) - 1}: one holds half a surrogate pair, "
                    f"which has no UTF-8 ({error.reason}): drop it or replace the character"
                ) from error
        yield Texts(part)
