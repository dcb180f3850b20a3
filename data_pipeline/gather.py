"""The loops over documents and tokens that make a batch: compiled if numba is there, or in numpy.

`copy_ranges` copies ranges of a stream of shuffled documents out of a shard. The stream is the
documents ``documents[0], documents[1], ...`` end to end; document d is ``tokens[starts[d]:...]``,
and ``ends[k]`` is where the k-th of them ends in the stream. Range i is ``[begins[i], begins[i] +
lengths[i])`` of the stream, none of them empty. It goes to ``window[into[i]:]``, and ``marks`` gets
a 1 where a document begins.

`finish` makes of these marks [n, S + 1] (overwritten) what a batch says of its documents:
document_ids int32 [n, S], position_ids int64 [n, S] and loss_mask float32 [n, S], as
`PackedSamples.gather` describes them; ``masked`` is its ``document_mask``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

_LONG = 64  # tokens a segment; from there on a copy of each is faster than indices


def copy_in_numpy(
    tokens: NDArray[Any],
    starts: Ints,
    documents: NDArray[Any],
    ends: Ints,
    begins: Ints,
    lengths: Ints,
    into: Ints,
    window: Ints,
    marks: NDArray[np.int32],
) -> None:
    """As the module says: the reference."""
    first = np.searchsorted(ends, begins, side="right")
    last = np.searchsorted(ends, begins + lengths - 1, side="right")
    touched = last - first + 1
    # One segment for each document that a range touches.
    range_of = np.repeat(np.arange(len(begins)), touched)
    place = first[range_of] + _count_up(touched)
    stream_start = np.where(place > 0, ends[place - 1], 0)
    seg_begin = np.maximum(begins[range_of], stream_start)
    seg_end = np.minimum(begins[range_of] + lengths[range_of], ends[place])
    seg_length = seg_end - seg_begin
    seg_into = into[range_of] + seg_begin - begins[range_of]
    seg_from = starts[documents[place]] + seg_begin - stream_start
    marks[seg_into[seg_begin == stream_start]] = 1
    if seg_length.sum() > _LONG * len(seg_length):
        for to, source, size in zip(
            seg_into.tolist(), seg_from.tolist(), seg_length.tolist(), strict=True
        ):
            window[to : to + size] = tokens[source : source + size]
    else:
        along = _count_up(seg_length)
        window[np.repeat(seg_into, seg_length) + along] = tokens[
            np.repeat(seg_from, seg_length) + along
        ]


def _count_up(lengths: Ints) -> Ints:
    """0, 1, ..., l - 1 for each l, end to end."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)


def _copy(
    tokens: NDArray[Any],
    starts: Ints,
    documents: NDArray[Any],
    ends: Ints,
    begins: Ints,
    lengths: Ints,
    into: Ints,
    window: Ints,
    marks: NDArray[np.int32],
) -> None:
    for i in range(len(begins)):
        at, left, to = begins[i], lengths[i], into[i]
        low, high = 0, len(ends)  # the first document that ends behind `at`
        while low < high:
            middle = (low + high) // 2
            if ends[middle] > at:
                high = middle
            else:
                low = middle + 1
        while left > 0:
            start = ends[low - 1] if low > 0 else 0
            if start == at:
                marks[to] = 1
            size = min(ends[low] - at, left)
            source = starts[documents[low]] + at - start
            for k in range(size):
                window[to + k] = tokens[source + k]
            at += size
            to += size
            left -= size
            low += 1


def ends_in_numpy(lengths: NDArray[Any], documents: NDArray[Any]) -> Ints:
    """``ends``, of documents of these ``lengths``: the reference."""
    return np.cumsum(lengths[documents], dtype=np.int64)


def _ends(lengths: NDArray[Any], documents: NDArray[Any]) -> Ints:
    ends = np.empty(len(documents), np.int64)
    total = np.int64(0)
    for k in range(len(documents)):
        total += lengths[documents[k]]
        ends[k] = total
    return ends


def finish_in_numpy(
    marks: NDArray[np.int32], masked: bool
) -> tuple[NDArray[np.int32], Ints, NDArray[np.float32]]:
    """As the module says: the reference."""
    n, S = marks.shape[0], marks.shape[1] - 1
    marks[:, 0] = 0
    position = np.arange(S)
    if masked:
        last = np.maximum.accumulate(np.where(marks[:, :S] > 0, position, 0), axis=1)
        positions = position - last
        loss_mask = (marks[:, 1:] == 0).astype(np.float32)
    else:
        positions = np.broadcast_to(position, (n, S)).copy()
        loss_mask = np.ones((n, S), np.float32)
    return np.cumsum(marks[:, :S], axis=1, dtype=np.int32), positions, loss_mask


def _finish(
    marks: NDArray[np.int32], masked: bool
) -> tuple[NDArray[np.int32], Ints, NDArray[np.float32]]:
    n, S = marks.shape[0], marks.shape[1] - 1
    positions = np.empty((n, S), np.int64)
    loss_mask = np.empty((n, S), np.float32)
    for row in range(n):
        marks[row, 0] = 0
        if masked:
            position = 0
            for i in range(S):
                position = 0 if marks[row, i] else position
                positions[row, i] = position
                position += 1
                loss_mask[row, i] = 0.0 if marks[row, i + 1] else 1.0
        else:
            for i in range(S):
                positions[row, i] = i
            loss_mask[row] = 1.0
        document = np.int32(0)
        for i in range(S):
            document += marks[row, i]
            marks[row, i] = document
    return marks[:, :S], positions, loss_mask


try:
    from numba import njit

    copy_ranges = njit(cache=True, nogil=True)(_copy)
    stream_ends = njit(cache=True, nogil=True)(_ends)
    finish = njit(cache=True, nogil=True)(_finish)
except ImportError:  # it comes with the extra `data`
    copy_ranges, stream_ends, finish = copy_in_numpy, ends_in_numpy, finish_in_numpy
