"""Cut a document that is too long to encode at once, where the ids come out the same.

A library that encodes takes a hundred bytes and more for each byte of text, all at once. A cut is
made where the text around it, encoded at once, gives the ids of its two halves encoded apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Encode = Callable[[Sequence[str]], list[list[int]]]

LONGEST = 1 << 20  # bytes of a piece
_WINDOW = 1 << 12  # bytes before that in which a cut is looked for, then as many before, and so on
_AROUND = 512  # bytes on each side of a cut that are tried
_TRIES = 24  # cuts tried in a window


def pieces(
    data: Bytes, start: int, end: int, encode: Encode, longest: int = LONGEST
) -> Iterator[tuple[int, int]]:
    """Starts and ends of pieces of ``data[start:end]``, of at most ``longest`` bytes if it can be.

    Where a tokenizer adds a space of its own before every text, a piece is given without its first
    one. A stretch without any good cut (one word of a megabyte) stays in one piece.
    """
    at, limit = start, start + longest
    while limit < end:
        found = _cut(data, at, limit, end, encode)
        if found is None:
            limit += longest
            continue
        yield at, found[0]
        at = found[1]
        limit = at + longest
    yield at, end


def _cut(data: Bytes, start: int, limit: int, end: int, encode: Encode) -> tuple[int, int] | None:
    """Where the piece that begins at ``start`` ends and the next one begins."""
    for last in range(limit, start + 1, -_WINDOW):
        first = max(start + 1, last - _WINDOW)
        window = data[first:last]
        before = data[first - 1 : last - 1]
        spaces = first + np.flatnonzero((window == 32) & (before > 32) & (before < 0x80))
        others = first + np.flatnonzero((window & 0xC0) != 0x80)
        step = max(1, 2 * len(others) // _TRIES)
        for at in (*spaces[: -_TRIES // 2 : -1].tolist(), *others[::-step].tolist()):
            if (found := _tried(data, start, at, end, encode)) is not None:
                return at, found
        if limit - last > 4 * _WINDOW:
            break
    return None


def _tried(data: Bytes, start: int, at: int, end: int, encode: Encode) -> int | None:
    """Where the text behind a cut at ``at`` has to begin for the same ids, or None.

    Tried with several beginnings, as in a run of one character it matters how long the run is.
    """
    last = _whole_character(data, min(end, at + _AROUND), end)
    right = bytes(data[at:last]).decode()
    lefts = [
        bytes(data[_whole_character(data, max(start, at - around), at) : at]).decode()
        for around in (_AROUND, _AROUND - 1, _AROUND - 3, _AROUND // 3)
    ]
    other, less, *both = encode([right, right[1:], *lefts, *(left + right for left in lefts)])
    for begin, rest in ((at, other), (at + 1, less)):
        if begin > at and not right.startswith(" "):
            return None
        if all(w == one + rest for one, w in zip(both[:4], both[4:], strict=True)):
            return begin
    return None


def _whole_character(data: Bytes, at: int, end: int) -> int:
    """``at``, or where the next character begins."""
    while at < end and (data[at] & 0xC0) == 0x80:
        at += 1
    return at
