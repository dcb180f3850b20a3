"""Where a chunk of text between white space is cut into tokens; see `tokens.py` for what they are.

A chunk that is being cut is int64 [4, room], by row: its code points, their classes
(`token_classes.py`), the bytes at which they begin, and, in order, where tokens begin.
"""

from __future__ import annotations

import numba as nb
import numpy as np

from .characters import LETTER, NUMBER, UNSPACED
from .token_classes import (
    ALPHABETIC,
    CLOSES,
    CURRENCY,
    DIGIT,
    HOST,
    ICON,
    LOWER,
    OPENS,
    QUOTE,
    STOPPABLE,
    UPPER,
)

CODE, FLAG, BYTE, CUT = 0, 1, 2, 3

SEED = np.uint64(0xCBF29CE484222325)
PRIME = np.uint64(0x9E3779B97F4A7C15)
LONGEST_CASE = 16  # bytes
_MOST_PIECES = 5  # of a special case that is found among pieces
_LONGEST_UNIT = 4  # characters


@nb.njit(cache=True, nogil=True)
def hash_bytes(data, start, end):  # type: ignore[no-untyped-def]
    """64 bits of `data[start:end]`; `tokens.py` takes the same in passing."""
    key = SEED
    for at in range(start, end):
        key = (key ^ np.uint64(data[at])) * PRIME
    return key ^ (key >> np.uint64(32))


@nb.njit(cache=True, nogil=True, inline="always")
def trait(first, last, size):  # type: ignore[no-untyped-def]
    """13 bits of the first byte, the last one and their distance; few special cases share them."""
    return (np.int64(first) * 37 + np.int64(last) * 1217 + np.int64(size) * 593) & 0x1FFF


@nb.njit(cache=True, nogil=True, inline="always")
def find_case(cases, key):  # type: ignore[no-untyped-def]
    """The slot of `key`, or -1."""
    mask = len(cases) - 1
    slot = np.int64(key & np.uint64(mask))
    while cases[slot] != 0:
        if cases[slot] == key:
            return slot
        slot = (slot + 1) & mask
    return np.int64(-1)


@nb.njit(cache=True, nogil=True)
def cut_unspaced(chunk, n):  # type: ignore[no-untyped-def]
    """Where words begin in a chunk with letters of a script without spaces (see `words.py`)."""
    chunk[CUT, 0], count = 0, 1
    core = unspaced = False
    for k in range(n):
        if core and (
            chunk[FLAG, k] & UNSPACED or (unspaced and chunk[FLAG, k] & (LETTER | NUMBER))
        ):
            chunk[CUT, count] = k
            count += 1
            core = unspaced = False
        if chunk[FLAG, k] & UNSPACED:
            unspaced = True
        if chunk[FLAG, k] & (LETTER | NUMBER):
            core = True
    return count


@nb.njit(cache=True, nogil=True, inline="always")
def _case(data, start, end, likely, cases):  # type: ignore[no-untyped-def]
    """The slot of the special case that `data[start:end]` is, or -1."""
    slot, size = np.int64(-1), end - start
    if 0 < size <= LONGEST_CASE and likely[trait(data[start], data[end - 1], size)]:
        slot = find_case(cases, hash_bytes(data, start, end))
    return slot


@nb.njit(cache=True, nogil=True)
def cut_chunk(data, chunk, n, cases, pieces, likely, units):  # type: ignore[no-untyped-def]
    """Where tokens begin in a chunk of `n` characters; how many."""
    a, b, count, closing = 0, n, 0, n
    slot = np.int64(-1)
    # The ends of what was cut off behind are kept from the far end of `cut`, backwards.
    while a < b:
        slot = _case(data, chunk[BYTE, a], chunk[BYTE, b], likely, cases)
        if slot >= 0:
            break
        opens = _opening(chunk, a, b)
        if opens and a + opens < b:
            slot = _case(data, chunk[BYTE, a + opens], chunk[BYTE, b], likely, cases)
            if slot >= 0:
                chunk[CUT, count] = a
                count += 1
                a += opens
                break
        closes = _closing(data, chunk, a + opens, b, units)
        if closes and a < b - closes:
            slot = _case(data, chunk[BYTE, a], chunk[BYTE, b - closes], likely, cases)
            if slot >= 0:
                b -= closes
                chunk[CUT, closing] = b
                closing -= 1
                break
        if opens:
            chunk[CUT, count] = a
            count += 1
            a += opens
        if closes:
            b -= closes
            chunk[CUT, closing] = b
            closing -= 1
        if not opens and not closes:
            break
    if a < b:
        chunk[CUT, count] = a
        count += 1
        if slot >= 0:
            count = _cut_case(chunk, a, b, pieces[slot, 0], count)
        elif not _is_url(chunk, a, b):
            count = _cut_inside(chunk, a, b, count)
    for k in range(closing + 1, n + 1):
        # read before it is overwritten: count <= k
        chunk[CUT, count + k - closing - 1] = chunk[CUT, k]
    count += n - closing
    # `chunk[CUT, closing + 1 :]` ran from the inside to the outside: it is in order already
    return _join_cases(data, chunk, n, count, cases, pieces, likely) if count > 1 else count


@nb.njit(cache=True, nogil=True)
def _cut_case(chunk, a, b, cuts, count):  # type: ignore[no-untyped-def]
    for k in range(a + 1, b):
        if cuts >> np.uint64(chunk[BYTE, k] - chunk[BYTE, a]) & np.uint64(1):
            chunk[CUT, count] = k
            count += 1
    return count


@nb.njit(cache=True, nogil=True)
def _opening(chunk, a, b):  # type: ignore[no-untyped-def]
    """How many characters at `a` are cut off in front."""
    point = chunk[CODE, a]
    if chunk[FLAG, a] & OPENS:
        return 1
    if point == 0x2B:  # + but not of a number
        return 0 if a + 1 < b and chunk[FLAG, a + 1] & DIGIT else 1
    if point == 0x2E:
        dots = _dots(chunk, a, b)
        return dots if dots > 1 else 0
    if (
        point == 0x55 and a + 2 < b and chunk[CODE, a + 1] == 0x53 and chunk[CODE, a + 2] == 0x24
    ):  # US$
        return 3
    if (point == 0x43 or point == 0x41) and a + 1 < b and chunk[CODE, a + 1] == 0x24:  # C$, A$
        return 2
    return 0


@nb.njit(cache=True, nogil=True, inline="always")
def _dots(chunk, a, b):  # type: ignore[no-untyped-def]
    count = 0
    while a + count < b and chunk[CODE, a + count] == 0x2E:
        count += 1
    return count


@nb.njit(cache=True, nogil=True)
def _closing(data, chunk, a, b, units):  # type: ignore[no-untyped-def]
    """How many characters before `b` are cut off behind; of several ways the longest."""
    if a >= b:
        return 0
    last, point = chunk[FLAG, b - 1], chunk[CODE, b - 1]
    before = chunk[FLAG, b - 2] if b - 2 >= a else np.int64(0)
    if point == 0x2E:
        dots = 1
        while b - 1 - dots >= a and chunk[CODE, b - 1 - dots] == 0x2E:
            dots += 1
        if dots > 1:
            return dots
        if before & STOPPABLE:
            return 1
        if before & UPPER and b - 3 >= a and chunk[FLAG, b - 3] & UPPER:
            return 1
        degrees = b - 3 >= a and chunk[CODE, b - 3] == 0xB0
        return 1 if degrees and chunk[CODE, b - 2] in (0x46, 0x66, 0x43, 0x63, 0x4B, 0x6B) else 0
    if b - 2 >= a and point in (0x53, 0x73) and chunk[CODE, b - 2] in (0x27, 0x2019):  # 's
        return 2
    if last & CLOSES:
        return 2 if point == 0x2026 and b - 2 >= a and chunk[CODE, b - 2] == 0x2026 else 1
    if point == 0x2B:
        return 1 if before & DIGIT else 0
    if last & CURRENCY:
        if point == 0x24:
            if (
                b - 4 >= a
                and chunk[CODE, b - 2] == 0x53
                and chunk[CODE, b - 3] == 0x55
                and chunk[FLAG, b - 4] & DIGIT
            ):
                return 3
            if b - 3 >= a and chunk[CODE, b - 2] in (0x41, 0x43) and chunk[FLAG, b - 3] & DIGIT:
                return 2
        return 1 if before & DIGIT else 0
    for size in range(1, _LONGEST_UNIT + 1):
        k = b - 1 - size
        if k < a or chunk[FLAG, k + 1] & DIGIT:
            break
        if chunk[FLAG, k] & DIGIT:
            unit = find_case(units, hash_bytes(data, chunk[BYTE, k + 1], chunk[BYTE, b]))
            return size if unit >= 0 else 0
    return 0


@nb.njit(cache=True, nogil=True)
def _cut_inside(chunk, a, b, count):  # type: ignore[no-untyped-def]
    """Cuts around what stands between letters or digits; something at the very start stays."""
    begun, at = a, a
    while at < b:
        size = _between(chunk, at, a, b)
        if size == 0:
            at += 1
            continue
        if at > a:
            if at != begun:
                chunk[CUT, count] = at
                count += 1
            # else the last cut is where this begins
            begun = at + size
            if begun < b:
                chunk[CUT, count] = begun
                count += 1
        at += size
    return count


@nb.njit(cache=True, nogil=True)
def _between(chunk, at, a, b):  # type: ignore[no-untyped-def]
    """How many characters at `at` are a token between others; 0 if none."""
    point, here = chunk[CODE, at], chunk[FLAG, at]
    if here & ICON or point == 0x2026:
        return 1
    if here & ALPHABETIC or here & DIGIT:
        return 0
    before = chunk[FLAG, at - 1] if at > a else np.int64(0)
    after = chunk[FLAG, at + 1] if at + 1 < b else np.int64(0)
    if point == 0x2E:
        dots = _dots(chunk, at, b)
        if dots > 1:
            return dots
        return 1 if before & (LOWER | QUOTE) and after & (UPPER | QUOTE) else 0
    if point == 0x2C:
        return 1 if before & ALPHABETIC and after & ALPHABETIC else 0
    counted = after & DIGIT or (at + 1 < b and chunk[CODE, at + 1] == 0x2D)
    if point in (0x2B, 0x2A, 0x5E, 0x2D) and before & DIGIT and counted:  # + * ^ -
        return 1
    if not before & (ALPHABETIC | DIGIT):
        return 0
    if point == 0x3A or point == 0x3C or point == 0x3E or point == 0x3D or point == 0x2F:
        return 1 if after & ALPHABETIC else 0
    if point == 0x2D or point == 0x2014:  # one to three hyphens, one or two dashes
        most = 3 if point == 0x2D else 2
        for size in range(1, most + 1):
            if at + size >= b:
                return 0
            if chunk[FLAG, at + size] & ALPHABETIC:
                return size
            if chunk[CODE, at + size] != point:
                return 0
        return 0
    if point == 0x2013 or point == 0x7E:
        return 1 if after & ALPHABETIC else 0
    return 0


@nb.njit(cache=True, nogil=True)
def _is_url(chunk, a, b):  # type: ignore[no-untyped-def]
    """Whether all of it is a URL, host name or address: [scheme://][user@]host[:port][/...]."""
    if b - a < 4:
        return False
    dotted = False
    for k in range(a + 1, b):
        dotted = dotted or chunk[CODE, k] == 0x2E
    if not dotted:
        return False
    if _is_host(chunk, a, b):
        return True
    k = a
    while k < b and (
        chunk[FLAG, k] & (LETTER | NUMBER) or chunk[CODE, k] in (0x5F, 0x2B, 0x2D, 0x2E)
    ):
        k += 1
    scheme = (
        k - a > 1
        and k + 2 < b
        and chunk[CODE, k] == 0x3A
        and chunk[CODE, k + 1] == chunk[CODE, k + 2] == 0x2F
    )
    if scheme and _is_host(chunk, k + 3, b):
        return True
    found = False
    for k in range(a + 1, b):
        found = found or (chunk[CODE, k] == 0x40 and _is_host(chunk, k + 1, b))
    return found


@nb.njit(cache=True, nogil=True)
def _is_host(chunk, a, b):  # type: ignore[no-untyped-def]
    """Names with dots between, the last of small letters; then a port and a path, or neither."""
    k, label, dots = a, a, 0
    while k < b:
        if chunk[CODE, k] == 0x2E:
            size = k - label
            if not 0 < size <= 64 or not chunk[FLAG, label] & HOST or not chunk[FLAG, k - 1] & HOST:
                return False
            dots += 1
            label = k + 1
        elif not chunk[FLAG, k] & HOST and chunk[CODE, k] != 0x5F and chunk[CODE, k] != 0x2D:
            break
        k += 1
    if dots == 0 or not 2 <= k - label <= 63:
        return False
    for c in range(label, k):
        if not chunk[FLAG, c] & LOWER:
            return False
    if k < b and chunk[CODE, k] == 0x3A:
        digits = 0
        while k + 1 + digits < b and chunk[FLAG, k + 1 + digits] & DIGIT:
            digits += 1
        if not 2 <= digits <= 5:
            return False
        k += 1 + digits
    return k == b or chunk[CODE, k] == 0x2F or chunk[CODE, k] == 0x3F or chunk[CODE, k] == 0x23


@nb.njit(cache=True, nogil=True)
def _join_cases(data, chunk, n, count, cases, pieces, likely):  # type: ignore[no-untyped-def]
    """Find special cases again that were cut, the longest first; the new count."""
    chunk[CUT, count] = n
    found = False
    taken = chunk[CUT, :0]
    for size in range(min(_MOST_PIECES, count), 1, -1):
        for first in range(count - size + 1):
            a, b = chunk[CUT, first], chunk[CUT, first + size]
            slot = _case(data, chunk[BYTE, a], chunk[BYTE, b], likely, cases)
            if slot < 0 or pieces[slot, 1] == 0:
                continue
            pattern = np.uint64(0)
            for k in range(first + 1, first + size):
                pattern |= np.uint64(1) << np.uint64(chunk[BYTE, chunk[CUT, k]] - chunk[BYTE, a])
            if pattern != pieces[slot, 1]:
                continue
            if not found:
                found = True
                taken = np.zeros(
                    count + 1, np.int64
                )  # 1: in use, -1: in a case, 2 + slot: its first
            free = taken[first] == 0 and taken[first + size - 1] == 0
            for k in range(first, first + size):
                if free:
                    taken[k] = 2 + slot if k == first else -1
                elif taken[k] == 0:
                    taken[k] = 1
    if not found:
        return count
    old = chunk[CUT, : count + 1].copy()
    kept, k = 0, 0
    while k < count:
        chunk[CUT, kept] = old[k]
        kept += 1
        if taken[k] >= 2:
            last = k + 1
            while last < count and taken[last] < 0:
                last += 1
            cuts = pieces[taken[k] - 2, 0]
            kept = _cut_case(chunk, old[k], old[last], cuts, kept)
            k = last
        else:
            k += 1
    return kept
