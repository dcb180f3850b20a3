"""Near-duplicates of a corpus on disk: a stage over the whole of it, in bounded memory.

The entries of a document are the hashes of its bands, so documents that agree in a band meet in a
range of keys and become candidates. Every candidate is verified by the exact Jaccard similarity of
the two sets of shingles, which lie beside each part (`sets.py`). What is verified connects into
clusters, and of each cluster one document stays.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray

from ..errors import InputError
from ..report.clusters import Chosen, chosen
from ..stages.quality import quality
from ..stages.stage import Texts
from ..tasks import Facts, Task
from .components import clusters, kept
from .lsh import candidate_pairs, unique_pairs
from .near import TOGETHER, Near, sketch
from .sets import Library, SetWriter, StoredSets
from .shuffle import entries, first_number, part_and_row, read_range
from .whole import Perform, Rows, Sketch, Sketches, Whole, write_drops

_PAIRS = 2 << 20  # candidates verified at a time
KEEP = ("quality", "longest", "first")


@dataclass(frozen=True, kw_only=True)
class NearDuplicates(Near, Whole):
    """Of documents that are alike by the Jaccard similarity of their shingles one stays.

    Clusters are connected components: two of a cluster may be alike through others only. Of a
    cluster that reaches into an earlier corpus no new document stays.
    """

    # which stays: the best (stages/quality.py) | the one of most characters | the first; of equals
    # the first
    keep_which: Literal["quality", "longest", "first"] = "quality"
    reason = "near duplicate"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keep_which not in KEEP:
            raise InputError(f"keep_which {self.keep_which!r}: one of {', '.join(KEEP)}")

    def sketch(self, folder: Path) -> Sketch:
        """Entries, sets of shingles and scores."""
        return _NearSketch(folder, self)

    def scores(self, documents: pa.Table) -> NDArray[np.floating]:
        """Higher is better, [documents]."""
        if self.keep_which == "quality":
            return quality(documents)
        if self.keep_which == "longest":
            lengths = pa.compute.utf8_length(documents.column("text"))
            return lengths.to_numpy().astype(np.float64)
        return np.zeros(len(documents))

    def resolve(self, sketches: Sketches, out: Path, perform: Perform) -> Facts:
        """Candidates by range of hashes, verification by part, then clusters."""
        candidates = self.compare(sketches, out, perform, compare_buckets)
        folders = [str(folder) for folder in sketches.folders]
        fresh = range(sketches.earlier, len(folders))
        verified = [
            Task(
                out / "verified" / f"{part:05d}",
                verify_part,
                {"stage": self, "candidates": candidates, "sketches": folders, "part": part},
            )
            for part in fresh
        ]
        perform(verified)
        arguments = {
            "verified": [str(task.output) for task in verified],
            "sketches": folders,
            "earlier": sketches.earlier,
        }
        return perform([Task(out / "drops", decide, arguments)])[0]

    def keep(self, sketch: Path, decided: Path, out: Path) -> int:
        """Copy of a sketch, without entries and sets of what was dropped."""
        out.mkdir(parents=True, exist_ok=True)
        total = super().keep(sketch, decided, out)
        stored, writer = StoredSets(sketch), SetWriter(out)
        stays = np.ones(len(stored), bool)
        stays[np.load(decided).astype(np.int64)] = False
        for first in range(0, len(stored), TOGETHER):
            last = min(first + TOGETHER, len(stored))
            offsets = np.asarray(stored.offsets[first : last + 1])
            hashes = np.asarray(stored.values[offsets[0] : offsets[-1]])
            writer.add(hashes, offsets - offsets[0], stored.scores[first:last], stays[first:last])
        writer.close()
        return total


class _NearSketch(Sketch):
    def __init__(self, folder: Path, stage: NearDuplicates) -> None:
        super().__init__(folder, stage.entries)
        self._stage = stage
        self._sets = SetWriter(folder)

    def add(self, documents: pa.Table) -> None:
        for first in range(0, len(documents), TOGETHER):
            part = documents.slice(first, TOGETHER)
            found = sketch(Texts(part), self._stage)
            rows: Rows = np.arange(self.rows, self.rows + len(part), dtype=np.uint64)
            self.rows += len(part)
            some = np.diff(found.offsets) > 0  # a text without words is nobody's duplicate
            keys = found.bands[some]
            document = rows[some].repeat(keys.shape[1])
            self.writer.add(entries(keys.ravel(), np.zeros(keys.size, np.uint64), document))
            self._sets.add(found.hashes, found.offsets, self._stage.scores(part))

    def close(self) -> None:
        super().close()
        self._sets.close()


# --- Tasks ---------------------------------------------------------------------


def compare_buckets(
    folder: Path, *, stage: NearDuplicates, entries: Sequence[str], number: int, ranges: int
) -> Facts:
    """Candidates [pairs, 2], first < second, among one range of hashes; in order of the second."""
    found = read_range([Path(path) for path in entries], number, ranges)
    documents = found["document"].astype(np.int64)
    pairs = candidate_pairs(np.ascontiguousarray(found["key"]), documents, stage.bands)
    pairs = pairs[np.lexsort((pairs[:, 0], pairs[:, 1]))]
    np.save(folder / "pairs.npy", pairs.astype(np.uint64))
    return {"pairs": len(pairs)}


def verify_part(
    folder: Path,
    *,
    stage: NearDuplicates,
    candidates: Sequence[str],
    sketches: Sequence[str],
    part: int,
) -> Facts:
    """Of the candidates whose second is in `part`, those that are alike, and how much."""
    files = [np.load(Path(path) / "pairs.npy", mmap_mode="r") for path in candidates]
    library = Library([Path(path) for path in sketches])
    start, rows = first_number(part), len(library.part(part))
    total = sum(_upto(file, start + rows) - _upto(file, start) for file in files)
    blocks = max(1, -(-total // _PAIRS))
    alike, similarities = [np.empty((0, 2), np.uint64)], [np.empty(0)]
    for block in range(blocks):
        low, high = start + rows * block // blocks, start + rows * (block + 1) // blocks
        pieces = [np.asarray(file[_upto(file, low) : _upto(file, high)]) for file in files]
        pairs = unique_pairs(np.concatenate(pieces).astype(np.int64)).astype(np.uint64)
        found = library.similarities(pairs)
        verified = found >= stage.threshold
        alike.append(pairs[verified])
        similarities.append(found[verified])
    np.save(folder / "pairs.npy", np.concatenate(alike))
    np.save(folder / "similarities.npy", np.concatenate(similarities))
    return {"candidates": total, "pairs": sum(map(len, alike))}


def decide(
    folder: Path, *, verified: Sequence[str], sketches: Sequence[str], earlier: int
) -> Facts:
    """Clusters of what is alike, and the rows to leave out of every part of this corpus."""
    pairs = np.concatenate([np.load(Path(path) / "pairs.npy") for path in verified])
    similarities = np.concatenate([np.load(Path(path) / "similarities.npy") for path in verified])
    documents, places = np.unique(pairs, return_inverse=True)
    places = places.reshape(-1, 2)
    library = Library([Path(path) for path in sketches])
    labels = clusters(len(documents), places)
    known = documents < np.uint64(first_number(earlier))
    scores = np.where(known, np.inf, library.scores(documents))
    keep = kept(labels, scores) | known
    facts = write_drops(folder, documents[~keep], (earlier, len(sketches)))
    sizes = np.bincount(labels, minlength=len(documents))
    counts = np.bincount(sizes[sizes > 0])
    facts["clusters"] = {str(size): int(n) for size, n in enumerate(counts.tolist()) if n}
    shown = chosen(labels, keep, places, similarities, sizes=library.sizes(documents))
    facts["largest"] = _largest(documents, earlier, shown)
    return facts


def _upto(file: NDArray[np.uint64], document: int) -> int:
    """Pairs whose second is below `document`."""
    return bisect_left(file[:, 1], document)


def _largest(
    documents: NDArray[np.uint64], earlier: int, shown: Iterable[Chosen]
) -> list[dict[str, Any]]:
    """The clusters that a report shows, their documents by part and row.

    Parts are numbered from the first of this corpus; those of an earlier one are below 0.
    """
    found = []
    for choice in shown:
        part, row = part_and_row(documents[list(choice.rows)])
        members = zip(part.tolist(), row.tolist(), strict=True)
        found.append(
            {
                "size": choice.size,
                "rows": [[int(p) - earlier, int(r)] for p, r in members],
                "kept": list(choice.kept),
                "similarities": list(choice.similarities),
            }
        )
    return found
