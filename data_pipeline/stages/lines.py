"""The lines of a batch, found once and shared by every quality rule.

A line ends at a newline; the last one needs none. A paragraph ends at a blank line.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba as nb
import numpy as np
from numpy.typing import NDArray

from .characters import SPACE, character_table, decode
from .stage import Texts

_SEED = np.uint64(0xCBF29CE484222325)
_PRIME = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Lines:
    """Lines of all documents, blank ones too; line l of document d: of[d] <= l < of[d + 1]."""

    of: NDArray[np.int64]  # [documents + 1]
    start: NDArray[np.int64]  # [lines] byte of the first character that is no space
    end: NDArray[np.int64]  # [lines] byte past the last one; start == end is a blank line
    characters: NDArray[np.int64]  # [lines] with outer spaces, without the newline
    hash: NDArray[np.uint64]  # [lines] of the line with its outer spaces
    text_characters: NDArray[np.int64]  # [documents] newlines too


def find_lines(texts: Texts) -> Lines:
    """The lines of `texts`."""
    rows = len(texts)
    body = texts.data[texts.offsets[0] : texts.offsets[-1]]
    most = int(np.count_nonzero(body == 10)) + rows
    lines = Lines(
        np.zeros(rows + 1, np.int64),
        np.empty(most, np.int64),
        np.empty(most, np.int64),
        np.empty(most, np.int64),
        np.empty(most, np.uint64),
        np.zeros(rows, np.int64),
    )
    outs = (lines.of, lines.start, lines.end, lines.characters, lines.hash, lines.text_characters)
    count = _find_lines(texts.data, texts.offsets, character_table().classes, outs)
    return Lines(
        lines.of,
        lines.start[:count],
        lines.end[:count],
        lines.characters[:count],
        lines.hash[:count],
        lines.text_characters,
    )


@nb.njit(cache=True, nogil=True)
def _find_lines(data, offsets, classes, lines):  # type: ignore[no-untyped-def]
    of, first, last, characters, hashes, text_characters = lines
    n = 0
    for d in range(len(offsets) - 1):
        at, end = offsets[d], offsets[d + 1]
        total = 0
        while at < end:
            begun, key, size = at, _SEED, 0
            while at < end and data[at] != 10:
                byte = data[at]
                key = (key ^ np.uint64(byte)) * _PRIME
                size += byte & 0xC0 != 0x80
                at += 1
            first[n], last[n] = _inside(data, begun, at, classes)
            characters[n], hashes[n] = size, key ^ (key >> np.uint64(32))
            total += size + (at < end)
            n += 1
            at += 1
        of[d + 1], text_characters[d] = n, total
    return n


@nb.njit(cache=True, nogil=True)
def _inside(data, start, end, classes):  # type: ignore[no-untyped-def]
    """`data[start:end]` without white space around it."""
    while start < end:
        code, step = decode(data, start, end)
        if code >= len(classes) or not classes[code] & SPACE:
            break
        start += step
    while end > start:
        at = end - 1
        while at > start and data[at] & 0xC0 == 0x80:
            at -= 1
        code, _ = decode(data, at, end)
        if code >= len(classes) or not classes[code] & SPACE:
            break
        end = at
    return start, end
