"""Which positions a context-parallel rank holds, and which attend to which: pure arithmetic.

A row of `length` positions is cut into 2 x cp chunks; rank r holds chunks r and 2 cp - 1 - r, one
after the other, so that under a causal mask every rank has the same number of scores to compute.
A row may hold several documents: `boundaries` are their cumulative lengths, 0 to `length`.
Documents are cut wherever a chunk ends, so their lengths are free.

A `Piece` is a rectangle of scores. A document is contiguous, so of an earlier chunk's keys and a
later chunk's queries at most one document has both, keys at the end of one and queries at the start
of the other: no piece needs a mask other than its diagonal and the window.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise


@dataclass(frozen=True)
class Piece:
    """Queries [start, stop) against keys [start, stop), as positions in what two ranks hold.

    Query i of the piece sees key j if i + distance - window < j <= i + distance; window None is no
    limit. Every query sees at least one key.
    """

    queries: tuple[int, int]
    keys: tuple[int, int]
    distance: int  # from the first key to the first query; 0 is the diagonal
    window: int | None = None


def chunks(rank: int, size: int) -> tuple[int, int]:
    """The two of 2 x `size` chunks that `rank` holds, in the order in which it holds them."""
    return rank, 2 * size - 1 - rank


def held(rank: int, size: int, length: int) -> tuple[range, range]:
    """The positions of a row of `length` that `rank` holds."""
    chunk = length // (2 * size)
    first, second = (range(c * chunk, (c + 1) * chunk) for c in chunks(rank, size))
    return first, second


@lru_cache(maxsize=64)
def ring_steps(
    rank: int,
    size: int,
    length: int,
    boundaries: tuple[int, ...] | None = None,
    window: int | None = None,
) -> tuple[tuple[Piece, ...], ...]:
    """What `rank` computes at each step of the ring: at step s it has the keys of rank - s."""
    return tuple(
        tuple(pieces(rank, (rank - step) % size, size, length, boundaries, window))
        for step in range(size)
    )


def pieces(
    rank: int,
    source: int,
    size: int,
    length: int,
    boundaries: tuple[int, ...] | None = None,
    window: int | None = None,
) -> Iterator[Piece]:
    """The scores of the queries of `rank` and the keys of `source`.

    boundaries None: the row is one document.
    """
    chunk = length // (2 * size)
    if window is None and (boundaries is None or len(boundaries) == 2):
        yield _one_document(rank, source, chunk)
        return
    boundaries = boundaries or (0, length)
    for q_index, q_chunk in enumerate(chunks(rank, size)):
        for k_index, k_chunk in enumerate(chunks(source, size)):
            q_start, k_start = q_chunk * chunk, k_chunk * chunk
            # what is added to a position of the row to have it as a local one
            to_local = q_index * chunk - q_start, k_index * chunk - k_start
            if k_chunk == q_chunk:
                q_stop = q_start + chunk
                begun = bisect_right(boundaries, q_start), bisect_left(boundaries, q_stop)
                for start, stop in pairwise((q_start, *boundaries[slice(*begun)], q_stop)):
                    yield from _piece((start, stop), (start, stop), to_local, window)
            elif k_chunk < q_chunk:
                document = bisect_right(boundaries, q_start) - 1
                first = max(k_start, boundaries[document])
                last = min(q_start + chunk, boundaries[document + 1])
                yield from _piece((q_start, last), (first, k_start + chunk), to_local, window)


def _one_document(rank: int, source: int, chunk: int) -> Piece:
    """Without boundaries and windows, a step is one rectangle."""
    both = (0, 2 * chunk)
    if source == rank:  # the local order is the global one: one diagonal
        return Piece(both, both, 0)
    if source < rank:  # its second chunk is after both of ours
        return Piece(both, (0, chunk), chunk)
    return Piece((chunk, 2 * chunk), both, 2 * chunk)  # only our second is after its chunks


def _piece(
    queries: tuple[int, int],
    keys: tuple[int, int],
    to_local: tuple[int, int],
    window: int | None,
) -> Iterator[Piece]:
    """The piece of these positions of the row, less what no window reaches; none if it is empty."""
    (q_start, q_stop), (k_start, k_stop) = queries, keys
    if window is not None:
        q_stop = min(q_stop, k_stop - 1 + window)
        k_start = max(k_start, q_start - window + 1)
        if q_stop - k_start <= window:  # the farthest pair is within it
            window = None
    if q_stop > q_start and k_stop > k_start:
        q_shift, k_shift = to_local
        yield Piece(
            (q_start + q_shift, q_stop + q_shift),
            (k_start + k_shift, k_stop + k_shift),
            q_start - k_start,
            window,
        )
