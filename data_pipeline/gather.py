"""The loops over documents and tokens that make a batch: compiled if numba is there, or in numpy.

`fill_rows` reads rows of S + 1 tokens out of the stream of an epoch, whose documents
``documents[0], documents[1], ...`` lie end to end: document d is ``tokens[starts[d]:...]``, and
``ends[k]`` is where the k-th of them ends in the stream. Behind the last one the next epoch begins,
``next_documents`` and ``next_ends``; it is long enough for a row. Sample ``numbers[i]`` begins at
``lead + slots[numbers[i] - first] S``, and overwrites row ``rows[i]`` of these:

    window        int64 [n, S + 1]  tokens
    document_ids  int32 [n, S]      0, 1, ... along the row: which document of it a token is in
    positions     int64 [n, S]      0, 1, ... along the row, or of each document if ``masked``
    loss_mask     float32 [n, S]    1; if ``masked``, 0 before the first token of a document

`stream_ends` gives ``ends`` of documents of these ``lengths``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

_LONG = 64  # tokens a segment; from there on a copy of each is faster than indices


def fill_in_numpy(
    tokens: NDArray[Any],
    starts: Ints,
    documents: NDArray[Any],
    ends: Ints,
    next_documents: NDArray[Any],
    next_ends: Ints,
    slots: NDArray[Any],
    first: int,
    lead: int,
    numbers: Ints,
    rows: Ints,
    masked: bool,
    window: Ints,
    document_ids: NDArray[np.int32],
    positions: Ints,
    loss_mask: NDArray[np.float32],
) -> None:
    """As the module says: the reference."""
    n, S = len(numbers), document_ids.shape[1]
    taken = np.empty((n, S + 1), np.int64)
    marks = np.zeros((n, S + 1), np.int32)
    into = np.arange(n) * (S + 1)
    begins = lead + slots[numbers - first].astype(np.int64) * S
    left = ends[-1] - begins
    flat = taken.reshape(-1), marks.reshape(-1)
    _copy_ranges(tokens, starts, documents, ends, begins, np.minimum(left, S + 1), into, *flat)
    across = np.flatnonzero(left <= S)  # these read on into the next epoch
    rest, into = S + 1 - left[across], into[across] + left[across]
    zeros = np.zeros_like(rest)
    _copy_ranges(tokens, starts, next_documents, next_ends, zeros, rest, into, *flat)
    window[rows] = taken
    document_ids[rows], positions[rows], loss_mask[rows] = _finished(marks, masked)


def _copy_ranges(
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
    """Range i, ``[begins[i], begins[i] + lengths[i])`` of the stream and not empty, goes to
    ``window[into[i]:]``, and ``marks`` gets a 1 where a document begins."""
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


def ends_in_numpy(lengths: NDArray[Any], documents: NDArray[Any]) -> Ints:
    """As the module says: the reference."""
    return np.cumsum(lengths[documents], dtype=np.int64)


def _ends(lengths: NDArray[Any], documents: NDArray[Any]) -> Ints:
    ends = np.empty(len(documents), np.int64)
    total = np.int64(0)
    for k in range(len(documents)):
        total += lengths[documents[k]]
        ends[k] = total
    return ends


def _finished(
    marks: NDArray[np.int32], masked: bool
) -> tuple[NDArray[np.int32], Ints, NDArray[np.float32]]:
    """document_ids, positions and loss_mask of rows with these marks [n, S + 1]."""
    n, S = marks.shape[0], marks.shape[1] - 1
    marks[:, 0] = 0
    position = np.arange(S)
    if masked:
        last = np.maximum.accumulate(np.where(marks[:, :S] > 0, position, 0), axis=1)
        positions = position - last
        loss_mask = (marks[:, 1:] == 0).astype(np.float32)
    else:
        positions = np.broadcast_to(position, (n, S))
        loss_mask = np.ones((n, S), np.float32)
    return np.cumsum(marks[:, :S], axis=1, dtype=np.int32), positions, loss_mask


def _fill(
    tokens: NDArray[Any],
    starts: Ints,
    documents: NDArray[Any],
    ends: Ints,
    next_documents: NDArray[Any],
    next_ends: Ints,
    slots: NDArray[Any],
    first: int,
    lead: int,
    numbers: Ints,
    rows: Ints,
    masked: bool,
    window: Ints,
    document_ids: NDArray[np.int32],
    positions: Ints,
    loss_mask: NDArray[np.float32],
) -> None:
    S = document_ids.shape[1]
    for i in range(len(numbers)):
        row = rows[i]
        here, here_ends = documents, ends
        at = lead + np.int64(slots[numbers[i] - first]) * S
        place, high = 0, len(ends)  # the first document that ends behind `at`
        while place < high:
            middle = (place + high) // 2
            if ends[middle] > at:
                high = middle
            else:
                place = middle + 1
        to, origin, document = 0, 0, np.int32(0)
        while to <= S:
            if place == len(here_ends):
                here, here_ends, place, at = next_documents, next_ends, 0, np.int64(0)
            start = here_ends[place - 1] if place > 0 else np.int64(0)
            size = min(here_ends[place] - at, S + 1 - to)
            source = starts[here[place]] + at - start
            if at == start and to > 0:
                document += np.int32(1)
                if masked:
                    origin = to
                    loss_mask[row, to - 1] = 0.0
            # slices: with an index that cannot be negative, these loops are compiled to vectors
            given, taken = tokens[source : source + size], window[row, to : to + size]
            for k in range(size):
                taken[k] = given[k]
            inputs = min(size, S - to)
            ids, along = document_ids[row, to : to + inputs], positions[row, to : to + inputs]
            mask = loss_mask[row, to : to + inputs]
            for k in range(inputs):
                ids[k] = document
            for k in range(inputs):
                along[k] = to - origin + k
            for k in range(inputs):
                mask[k] = 1.0
            at += size
            to += size
            place += 1


try:
    from numba import njit

    fill_rows = njit(cache=True, nogil=True)(_fill)
    stream_ends = njit(cache=True, nogil=True)(_ends)
except ImportError:  # it comes with the extra `data`
    fill_rows, stream_ends = fill_in_numpy, ends_in_numpy
