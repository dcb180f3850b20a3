"""How much of a document repeats: lines, paragraphs and word n-grams (Gopher, table A1).

Things are compared by 64-bit hashes: in a document of a million words, that any two different
n-grams of one size share theirs has a chance of about 2^-25.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numba as nb
import numpy as np
from numpy.typing import NDArray

from .words import IS_JOINED, Analysis, Words

_STEP = np.uint64(0xD6E8FEB86659FD93)
_MIX = np.uint64(0xFF51AFD7ED558CCD)
_SMALLEST_TABLE = 16
_BELOW = 1 - 1e-9  # so that no rounding settles what is at its limit


def repeated_lines(analysis: Analysis) -> NDArray[np.int64]:
    """int64 [documents, 3]: lines, repeated lines, their characters; of lines that are not blank.

    The first of equal lines is not repeated.
    """
    counts = np.zeros((len(analysis.texts), 3), np.int64)
    lines = analysis.lines
    _repeated_lines(lines.of, lines.start, lines.end, lines.characters, lines.hash, counts)
    return counts


def repeated_parts(analysis: Analysis) -> NDArray[np.int64]:
    """int64 [documents, 6]: lines, repeated lines, their characters; the same of paragraphs.

    As in datatrove: only empty lines are no lines, those of spaces are; but a text that starts or
    ends with a newline has an empty one there. Paragraphs are what stands between empty lines
    (those of spaces stand inside), and their characters include their inner newlines.
    """
    counts = np.zeros((len(analysis.texts), 6), np.int64)
    lines, texts = analysis.lines, analysis.texts
    arrays = (lines.of, lines.start, lines.end, lines.characters, lines.hash)
    _repeated_parts(texts.data, texts.offsets, arrays, counts)
    return counts


def most_frequent_ngrams(words: Words, orders: tuple[int, ...]) -> NDArray[np.int64]:
    """int64 [documents, orders]: characters in the most frequent n-gram, all its occurrences.

    The characters of an n-gram are those of its words and one for each space between. Among the
    equally frequent the first counts. One that occurs once counts too, as in the paper; but not if
    it has no space: a run of n letters of an unspaced script is no phrase. Orders ascend.
    """
    counts = np.zeros((len(words.of) - 1, len(orders)), np.int64)
    _most_frequent(_arrays(words), np.array(orders, np.int64), _no_limits(words), counts)
    return counts


def repeated_ngrams(words: Words, orders: tuple[int, ...]) -> NDArray[np.int64]:
    """int64 [documents, orders]: characters of words inside an n-gram that occurred before.

    Read from left to right; after a repeated n-gram reading goes on behind it, so that no word
    counts twice. Orders ascend.
    """
    counts = np.zeros((len(words.of) - 1, len(orders)), np.int64)
    _repeated_ngrams(_arrays(words), np.array(orders, np.int64), _no_limits(words), counts)
    return counts


def most_frequent_above(
    words: Words, limits: Mapping[int, float], sizes: NDArray[np.int64]
) -> NDArray[np.int64]:
    """As `most_frequent_ngrams`; zeros where surely no order n is above `limits[n] * sizes`.

    Two n-grams of two words cover the half of one of three words, or three sevenths of one of
    four, at least as often as it occurs: where none of two words is so large, neither is a longer
    one. Most documents are settled by that.
    """
    orders = tuple(sorted(limits))
    counts = np.zeros((len(sizes), len(orders)), np.int64)
    least = _no_limits(words)
    if orders and orders[0] >= 2 and orders[-1] <= 4:
        share = {2: 1.0, 3: 1 / 2, 4: 3 / 7}
        least = np.float64(_BELOW * min(limits[n] * share[n] for n in orders)) * sizes
    _most_frequent(_arrays(words), np.array(orders, np.int64), least, counts)
    return counts


def repeated_above(
    words: Words, limits: Mapping[int, float], sizes: NDArray[np.int64]
) -> NDArray[np.int64]:
    """As `repeated_ngrams`; zeros where surely no order n is above `limits[n] * sizes`.

    A word inside a repeated n-gram is inside a repeated one of every smaller order. Where those of
    the smallest order hold too few characters, the larger ones do.
    """
    orders = tuple(sorted(limits))
    counts = np.zeros((len(sizes), len(orders)), np.int64)
    least = _BELOW * min(limits.values(), default=0.0) * sizes
    _repeated_ngrams(_arrays(words), np.array(orders, np.int64), least, counts)
    return counts


def _arrays(words: Words) -> tuple[NDArray[Any], ...]:
    return words.of, words.characters, words.hash, words.kind


def _no_limits(words: Words) -> NDArray[np.float64]:
    return np.full(len(words.of) - 1, -1.0)


@nb.njit(cache=True, nogil=True, inline="always")
def _slots(count):  # type: ignore[no-untyped-def]
    """The size of a hash table for `count` things: a power of two, at most half full."""
    size = _SMALLEST_TABLE
    while size < 2 * count:
        size *= 2
    return size


@nb.njit(cache=True, nogil=True, inline="always")
def _find(table, owner, stamp, mask, key):  # type: ignore[no-untyped-def]
    """(slot, whether `key` was there); a slot belongs to the set `stamp` or is free."""
    mixed = (key ^ (key >> np.uint64(33))) * _MIX
    slot = np.int64(mixed >> np.uint64(20)) & mask
    while owner[slot] == stamp:
        if table[slot] == key:
            return slot, True
        slot = (slot + 1) & mask
    owner[slot], table[slot] = stamp, key
    return slot, False


@nb.njit(cache=True, nogil=True)
def _largest(of):  # type: ignore[no-untyped-def]
    most = 0
    for d in range(len(of) - 1):
        most = max(most, of[d + 1] - of[d])
    return most


@nb.njit(cache=True, nogil=True)
def _repeated_lines(of, start, end, characters, hashes, counts):  # type: ignore[no-untyped-def]
    most = _slots(_largest(of))
    table, owner = np.empty(most, np.uint64), np.zeros(most, np.int64)
    stamp = 0
    for d in range(len(of) - 1):
        mask = _slots(of[d + 1] - of[d]) - 1
        stamp += 1
        for n in range(of[d], of[d + 1]):
            if start[n] == end[n]:
                continue
            counts[d, 0] += 1
            _, seen = _find(table, owner, stamp, mask, hashes[n])
            if seen:
                counts[d, 1] += 1
                counts[d, 2] += characters[n]


@nb.njit(cache=True, nogil=True)
def _repeated_parts(data, offsets, lines, counts):  # type: ignore[no-untyped-def]
    of, start, end, characters, hashes = lines
    most = _slots(_largest(of) + 2)
    table, owner = np.empty(most, np.uint64), np.zeros(most, np.int64)
    stamp = 0
    for d in range(len(of) - 1):
        a, b = of[d], of[d + 1]
        if a == b:
            continue
        mask = _slots(b - a + 2) - 1
        stamp += 1
        outer = np.int64(characters[a] == 0) + np.int64(data[offsets[d + 1] - 1] == 10)
        counts[d, 0], counts[d, 1] = outer, max(outer - 1, 0)
        for n in range(a, b):
            if characters[n] == 0:
                continue
            counts[d, 0] += 1
            _, seen = _find(table, owner, stamp, mask, hashes[n])
            if seen:
                counts[d, 1] += 1
                counts[d, 2] += characters[n]
        while a < b and start[a] == end[a]:
            a += 1
        while b > a and start[b - 1] == end[b - 1]:
            b -= 1
        stamp += 1
        inside, size, key = False, 0, np.uint64(0)
        for n in range(a, b + 1):
            if n < b and characters[n] > 0:
                key = (key ^ hashes[n]) * _STEP if inside else hashes[n]
                size += characters[n] + (1 if inside else 0)
                inside = True
            elif inside:
                counts[d, 3] += 1
                _, seen = _find(table, owner, stamp, mask, key)
                if seen:
                    counts[d, 4] += 1
                    counts[d, 5] += size
                inside, size = False, 0


@nb.njit(cache=True, nogil=True)
def _most_frequent(words, orders, least, counts):  # type: ignore[no-untyped-def]
    of, characters, hashes, kind = words
    most = _slots(_largest(of))
    table, owner = np.empty(most, np.uint64), np.zeros(most, np.int64)
    times, first = np.empty(most, np.int32), np.empty(most, np.int64)
    stamp = 0
    for d in range(len(of) - 1):
        count = of[d + 1] - of[d]
        if least[d] >= 0:
            stamp += 1
            if _largest_pair(of[d], of[d + 1], words, (table, owner, times), stamp) <= least[d]:
                continue
        mask = _slots(count) - 1
        all_once = False  # then so are the longer ones
        for o in range(len(orders)):
            n = orders[o]
            if count < n:
                continue
            best, where = 1, of[d]
            if not all_once:
                stamp += 1
                key, power = np.uint64(0), np.uint64(1)
                for _ in range(n):
                    power *= _STEP
                for w in range(of[d], of[d + 1]):
                    key = key * _STEP + hashes[w]
                    at = w - n + 1
                    if at < of[d]:
                        continue
                    if at > of[d]:
                        key -= power * hashes[at - 1]
                    slot, seen = _find(table, owner, stamp, mask, key)
                    if not seen:
                        times[slot], first[slot] = 1, at
                        continue
                    times[slot] += 1
                    if times[slot] > best or (times[slot] == best and first[slot] < where):
                        best, where = times[slot], first[slot]
                all_once = best == 1
            spaces = 0
            for w in range(where + 1, where + n):
                spaces += 0 if kind[w] & IS_JOINED else 1
            if best == 1 and spaces < n - 1:
                continue
            size = spaces
            for w in range(where, where + n):
                size += characters[w]
            counts[d, o] = size * best


@nb.njit(cache=True, nogil=True)
def _largest_pair(start, end, words, tables, stamp):  # type: ignore[no-untyped-def]
    """The most characters in all occurrences of a pair of words, a space between counted."""
    _, characters, hashes, _ = words
    table, owner, times = tables
    mask = _slots(end - start) - 1
    largest = 0
    for w in range(start + 1, end):
        size = np.int64(characters[w - 1]) + np.int64(characters[w]) + 1
        slot, seen = _find(table, owner, stamp, mask, hashes[w - 1] * _STEP + hashes[w])
        times[slot] = times[slot] + 1 if seen else 1
        largest = max(largest, size * times[slot])
    return largest


@nb.njit(cache=True, nogil=True)
def _repeated_ngrams(words, orders, least, counts):  # type: ignore[no-untyped-def]
    of, characters, hashes, _ = words
    most = _slots(_largest(of))
    table, owner = np.empty(most, np.uint64), np.zeros(most, np.int64)
    stamp = 0
    for d in range(len(of) - 1):
        mask = _slots(of[d + 1] - of[d]) - 1
        if least[d] >= 0 and len(orders) > 0:
            stamp += 1
            n, power, key, inside = orders[0], np.uint64(1), np.uint64(0), of[d]
            for _ in range(n):
                power *= _STEP
            covered = 0
            for w in range(of[d], of[d + 1]):
                key = key * _STEP + hashes[w]
                at = w - n + 1
                if at < of[d]:
                    continue
                if at > of[d]:
                    key -= power * hashes[at - 1]
                _, seen = _find(table, owner, stamp, mask, key)
                if seen:
                    for k in range(max(at, inside), w + 1):
                        covered += characters[k]
                    inside = w + 1
            if covered <= least[d]:
                continue
        for o in range(len(orders)):
            n = orders[o]
            power = np.uint64(1)
            for _ in range(n):
                power *= _STEP
            stamp += 1
            key, filled = np.uint64(0), 0
            for w in range(of[d], of[d + 1]):
                key = key * _STEP + hashes[w]
                filled += 1
                if filled < n:
                    continue
                if filled > n:
                    key -= power * hashes[w - n]
                _, seen = _find(table, owner, stamp, mask, key)
                if seen:
                    for k in range(w - n + 1, w + 1):
                        counts[d, o] += characters[k]
                    key, filled = np.uint64(0), 0
            if counts[d, o] == 0:  # nor does any longer n-gram repeat
                break
