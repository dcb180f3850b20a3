"""English text cut into words, punctuation and contractions, as the published filters count them.

Gopher's and FineWeb's rules were published with datatrove, whose words are the tokens of spaCy's
English tokenizer: `don't stop.` is `do`, `n't`, `stop`, `.`. This is an implementation of the rules
it documents. A chunk between white space is one of the special cases, or else loses what opens it
and what closes it, one at a time, until what is left is a special case, a URL, or is cut where
something stands between letters. Special cases are also found again among the pieces.

Scripts without spaces between words stay as `words.py` has them: each letter is a word.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numba as nb
import numpy as np
from numpy.typing import NDArray

from .characters import END, LETTER, MARK, NUMBER, SPACE, UNSPACED, decode
from .token_cases import special_cases
from .token_classes import (
    ALPHABETIC,
    BARE,
    CLOSES,
    CURRENCY,
    DIGIT,
    HOST,
    ICON,
    LOWER,
    OPENS,
    PUNCTUATION,
    QUOTE,
    STOPPABLE,
    UPPER,
    token_classes,
)

# Bits of `Words.kind`; the first four mean the same in `words.py`.
HAS_LETTER = 1
IS_SYMBOL = 2  # nothing but `BARE` characters
IS_UNSPACED = 4
IS_JOINED = 8  # a letter that follows another one of a script without spaces
IS_PUNCTUATION = 16  # nothing but category P
ENDS_SENTENCE = 32

_SEED = np.uint64(0xCBF29CE484222325)
_PRIME = np.uint64(0x9E3779B97F4A7C15)
_LONGEST_CASE = 16  # bytes
_MOST_PIECES = 5  # of a special case that is found among pieces

_UNITS = (
    "km m dm cm mm km² m² dm² cm² mm² km³ m³ dm³ cm³ mm³ ha µm nm yd in ft kg g mg µg t lb oz m/s "
    "km/h kmh mph hPa Pa mbar mb MB kb KB gb GB tb TB T G M K % км м дм см мм нм кг г мг м/с км/ч"
)
_LONGEST_UNIT = 4  # characters
_FOREIGN_DOLLARS = "UCA"  # US$, C$, A$

# Rows of a chunk that is being cut: its code points, their classes, their bytes, the cuts
_CODE, _FLAG, _BYTE, _CUT = 0, 1, 2, 3

# Bytes, to skip through plain words
_PLAIN, _BLANK, _OTHER, _WIDE = 0, 1, 2, 3


class TokenTables(NamedTuple):
    """What the tokenizer looks up."""

    bytes: NDArray[np.uint8]  # [256] a letter of ASCII, white space, other ASCII, a wider character
    classes: NDArray[np.uint32]  # [code points] the bits of `token_classes.py`
    cases: NDArray[np.uint64]  # [slots] an open hash table of the special cases; 0 is a free slot
    # [slots, 2] a bit for each byte at which another piece of a case begins, and would begin by the
    # other rules (0: one piece)
    pieces: NDArray[np.uint64]
    likely: NDArray[np.bool_]  # by `_trait`: whether a special case may look so
    units: NDArray[np.uint64]  # [slots] as `cases`


@lru_cache(maxsize=1)
def token_tables() -> TokenTables:
    """The tables, filled once in a process."""
    classes = token_classes()
    kinds = np.full(256, _WIDE, np.uint8)
    for code in range(128):
        letter, space = chr(code).isalpha(), chr(code).isspace()
        kinds[code] = _PLAIN if letter else _BLANK if space else _OTHER
    units = _hash_table([unit.encode() for unit in _UNITS.split()])
    likely = np.zeros(1 << 13, np.bool_)
    free = np.zeros((1, 2), np.uint64)
    plain = TokenTables(kinds, classes, free[:, 0].copy(), free, likely.copy(), units)
    special = {
        word.encode(): parts
        for word, parts in special_cases().items()
        if len(word.encode()) <= _LONGEST_CASE
    }
    cases = _hash_table(list(special))
    pieces = np.zeros((len(cases), 2), np.uint64)
    for word, parts in special.items():
        sizes = np.cumsum([len(part.encode()) for part in parts[:-1]], dtype=np.int64)
        key = _hash(np.frombuffer(word, np.uint8), 0, len(word))
        slot = _find_case(cases, np.uint64(key))
        likely[_trait(word[0], word[-1], len(word))] = True
        starts = tokenize_bytes(word, plain)[0]
        pieces[slot, 0] = sum(1 << int(size) for size in sizes)
        pieces[slot, 1] = sum(1 << int(start) for start in starts[1:])
    return TokenTables(kinds, classes, cases, pieces, likely, units)


def tokenize_bytes(
    text: bytes, tables: TokenTables | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.uint64], NDArray[np.uint8]]:
    """First byte, characters, hash and kind of each token of one text in UTF-8."""
    data, most = np.frombuffer(text, np.uint8), len(text) + 1
    out = (
        np.empty(most, np.int64),
        np.empty(most, np.int32),
        np.empty(most, np.uint64),
        np.empty(most, np.uint8),
    )
    count = tokenize(data, 0, len(text), tables or token_tables(), out, 0)
    return out[0][:count], out[1][:count], out[2][:count], out[3][:count]


def _hash_table(words: list[bytes]) -> NDArray[np.uint64]:
    """An open hash table of `words`, a third full at most and small: it is asked at every word."""
    size = 64
    while size < 3 * len(words):
        size *= 2
    keys = np.zeros(size, np.uint64)
    for word in words:
        key = np.uint64(_hash(np.frombuffer(word, np.uint8), 0, len(word)))
        slot = int(key) & (size - 1)
        while keys[slot] not in (0, key):
            slot = (slot + 1) & (size - 1)
        keys[slot] = key
    return keys


@nb.njit(cache=True, nogil=True)
def _hash(data, start, end):  # type: ignore[no-untyped-def]
    key = _SEED
    for at in range(start, end):
        key = (key ^ np.uint64(data[at])) * _PRIME
    return key ^ (key >> np.uint64(32))


@nb.njit(cache=True, nogil=True, inline="always")
def _trait(first, last, size):  # type: ignore[no-untyped-def]
    """13 bits of the first byte, the last one and their distance; few special cases share them."""
    return (np.int64(first) * 37 + np.int64(last) * 1217 + np.int64(size) * 593) & 0x1FFF


@nb.njit(cache=True, nogil=True, inline="always")
def _find_case(cases, key):  # type: ignore[no-untyped-def]
    """The slot of `key`, or -1."""
    mask = len(cases) - 1
    slot = np.int64(key & np.uint64(mask))
    while cases[slot] != 0:
        if cases[slot] == key:
            return slot
        slot = (slot + 1) & mask
    return np.int64(-1)


@nb.njit(cache=True, nogil=True)
def tokenize(data, at, end, tables, out, w):  # type: ignore[no-untyped-def]
    """Write the tokens of `data[at:end]` to `out` from index `w` on; how many there are then.

    out: first bytes, characters, hashes, kinds, with room for a token for each byte.
    """
    start, characters, hashes, kinds = out
    sort, classes, cases, pieces, likely, units = tables
    chunk = np.empty((4, 256), np.int64)
    while at < end:
        if sort[data[at]] == _BLANK:
            at += 1
            continue
        first, key = at, _SEED
        while at < end and sort[data[at]] == _PLAIN:
            key = (key ^ np.uint64(data[at])) * _PRIME
            at += 1
        size = at - first
        whole = at == end or sort[data[at]] == _BLANK
        mark = size > 0 and not whole and (at + 1 == end or sort[data[at + 1]] == _BLANK)
        if mark:  # letters and a mark that always closes, or a full stop
            last = data[at]
            if last == 0x2E:
                mark = data[at - 1] >= 0x61 or (size > 1 and data[at - 2] < 0x61)
                if mark and size < _LONGEST_CASE:
                    named = (key ^ np.uint64(last)) * _PRIME
                    mark = _find_case(cases, named ^ (named >> np.uint64(32))) < 0
            else:
                mark = last == 0x2C or last == 0x3A or last == 0x3B or last == 0x21
                mark = mark or last == 0x3F or last == 0x29
        if (whole and size > 0) or mark:
            key ^= key >> np.uint64(32)
            slot = np.int64(-1)
            if size <= _LONGEST_CASE:
                slot = _find_case(cases, key)
            if slot >= 0 and pieces[slot, 0] != 0:
                cuts, piece = pieces[slot, 0], first
                for k in range(1, size + 1):
                    if k == size or cuts >> np.uint64(k) & np.uint64(1):
                        start[w], characters[w] = piece, first + k - piece
                        hashes[w], kinds[w] = _hash(data, piece, first + k), HAS_LETTER
                        piece = first + k
                        w += 1
            else:
                start[w], characters[w], hashes[w], kinds[w] = first, size, key, HAS_LETTER
                w += 1
            if mark:
                key = (_SEED ^ np.uint64(data[at])) * _PRIME
                start[w], characters[w], hashes[w] = at, 1, key ^ (key >> np.uint64(32))
                kinds[w] = IS_SYMBOL | IS_PUNCTUATION
                if classes[data[at]] & END:
                    kinds[w] |= ENDS_SENTENCE
                at += 1
                w += 1
            continue
        at, n = first, 0
        seen = np.int64(0)
        while at < end:
            point, step = decode(data, at, end)
            flags = np.int64(classes[point]) if point < len(classes) else np.int64(0)
            if flags & SPACE:
                break
            if n + 1 == chunk.shape[1]:
                longer = np.empty((4, 2 * n + 2), np.int64)
                longer[:, :n] = chunk[:, :n]
                chunk = longer
            chunk[_CODE, n], chunk[_FLAG, n], chunk[_BYTE, n] = point, flags, at
            seen |= flags
            n += 1
            at += step
        if n == 0:  # white space beyond ASCII
            at += step
            continue
        chunk[_BYTE, n] = at
        unspaced = seen & UNSPACED != 0
        if unspaced:
            count = _cut_unspaced(chunk, n)
        else:
            count = _cut_chunk(data, chunk, n, cases, pieces, likely, units)
        for c in range(count):
            a, b = chunk[_CUT, c], (chunk[_CUT, c + 1] if c + 1 < count else n)
            start[w], characters[w] = chunk[_BYTE, a], b - a
            hashes[w] = _hash(data, chunk[_BYTE, a], chunk[_BYTE, b])
            kinds[w] = _kind(chunk, a, b, unspaced)
            if unspaced and c > 0:
                kinds[w] |= IS_JOINED
            w += 1
    return w


@nb.njit(cache=True, nogil=True)
def _kind(chunk, a, b, unspaced):  # type: ignore[no-untyped-def]
    seen, every = np.int64(0), np.int64(-1)
    for k in range(a, b):
        seen |= chunk[_FLAG, k]
        every &= chunk[_FLAG, k]
    kind = np.uint8(0)
    if seen & LETTER:
        kind |= HAS_LETTER
    if every & BARE:
        kind |= IS_SYMBOL
    if every & PUNCTUATION:
        kind |= IS_PUNCTUATION
    if seen & UNSPACED:
        kind |= IS_UNSPACED
    last = chunk[_FLAG, b - 1]
    alone = b == a + 1 or (unspaced and chunk[_CODE, b - 1] >= 0x80)
    if alone and last & END and not last & (LETTER | MARK | NUMBER):
        kind |= ENDS_SENTENCE
    return kind


@nb.njit(cache=True, nogil=True)
def _cut_unspaced(chunk, n):  # type: ignore[no-untyped-def]
    """Where words begin in a chunk with letters of a script without spaces (see `words.py`)."""
    chunk[_CUT, 0], count = 0, 1
    core = unspaced = False
    for k in range(n):
        if core and (
            chunk[_FLAG, k] & UNSPACED or (unspaced and chunk[_FLAG, k] & (LETTER | NUMBER))
        ):
            chunk[_CUT, count] = k
            count += 1
            core = unspaced = False
        if chunk[_FLAG, k] & UNSPACED:
            unspaced = True
        if chunk[_FLAG, k] & (LETTER | NUMBER):
            core = True
    return count


@nb.njit(cache=True, nogil=True, inline="always")
def _case(data, start, end, likely, cases):  # type: ignore[no-untyped-def]
    """The slot of the special case that `data[start:end]` is, or -1."""
    slot, size = np.int64(-1), end - start
    if 0 < size <= _LONGEST_CASE and likely[_trait(data[start], data[end - 1], size)]:
        slot = _find_case(cases, _hash(data, start, end))
    return slot


@nb.njit(cache=True, nogil=True)
def _cut_chunk(data, chunk, n, cases, pieces, likely, units):  # type: ignore[no-untyped-def]
    """Where tokens begin in a chunk of `n` characters; how many."""
    a, b, count, closing = 0, n, 0, n
    slot = np.int64(-1)
    # The ends of what was cut off behind are kept from the far end of `cut`, backwards.
    while a < b:
        slot = _case(data, chunk[_BYTE, a], chunk[_BYTE, b], likely, cases)
        if slot >= 0:
            break
        opens = _opening(chunk, a, b)
        if opens and a + opens < b:
            slot = _case(data, chunk[_BYTE, a + opens], chunk[_BYTE, b], likely, cases)
            if slot >= 0:
                chunk[_CUT, count] = a
                count += 1
                a += opens
                break
        closes = _closing(data, chunk, a + opens, b, units)
        if closes and a < b - closes:
            slot = _case(data, chunk[_BYTE, a], chunk[_BYTE, b - closes], likely, cases)
            if slot >= 0:
                b -= closes
                chunk[_CUT, closing] = b
                closing -= 1
                break
        if opens:
            chunk[_CUT, count] = a
            count += 1
            a += opens
        if closes:
            b -= closes
            chunk[_CUT, closing] = b
            closing -= 1
        if not opens and not closes:
            break
    if a < b:
        chunk[_CUT, count] = a
        count += 1
        if slot >= 0:
            count = _cut_case(chunk, a, b, pieces[slot, 0], count)
        elif not _is_url(chunk, a, b):
            count = _cut_inside(chunk, a, b, count)
    for k in range(closing + 1, n + 1):
        # read before it is overwritten: count <= k
        chunk[_CUT, count + k - closing - 1] = chunk[_CUT, k]
    count += n - closing
    # `chunk[_CUT, closing + 1 :]` ran from the inside to the outside: it is in order already
    return _join_cases(data, chunk, n, count, cases, pieces, likely) if count > 1 else count


@nb.njit(cache=True, nogil=True)
def _cut_case(chunk, a, b, cuts, count):  # type: ignore[no-untyped-def]
    for k in range(a + 1, b):
        if cuts >> np.uint64(chunk[_BYTE, k] - chunk[_BYTE, a]) & np.uint64(1):
            chunk[_CUT, count] = k
            count += 1
    return count


@nb.njit(cache=True, nogil=True)
def _opening(chunk, a, b):  # type: ignore[no-untyped-def]
    """How many characters at `a` are cut off in front."""
    point = chunk[_CODE, a]
    if chunk[_FLAG, a] & OPENS:
        return 1
    if point == 0x2B:  # + but not of a number
        return 0 if a + 1 < b and chunk[_FLAG, a + 1] & DIGIT else 1
    if point == 0x2E:
        dots = _dots(chunk, a, b)
        return dots if dots > 1 else 0
    if (
        point == 0x55 and a + 2 < b and chunk[_CODE, a + 1] == 0x53 and chunk[_CODE, a + 2] == 0x24
    ):  # US$
        return 3
    if (point == 0x43 or point == 0x41) and a + 1 < b and chunk[_CODE, a + 1] == 0x24:  # C$, A$
        return 2
    return 0


@nb.njit(cache=True, nogil=True, inline="always")
def _dots(chunk, a, b):  # type: ignore[no-untyped-def]
    count = 0
    while a + count < b and chunk[_CODE, a + count] == 0x2E:
        count += 1
    return count


@nb.njit(cache=True, nogil=True)
def _closing(data, chunk, a, b, units):  # type: ignore[no-untyped-def]
    """How many characters before `b` are cut off behind; of several ways the longest."""
    if a >= b:
        return 0
    last, point = chunk[_FLAG, b - 1], chunk[_CODE, b - 1]
    before = chunk[_FLAG, b - 2] if b - 2 >= a else np.int64(0)
    if point == 0x2E:
        dots = 1
        while b - 1 - dots >= a and chunk[_CODE, b - 1 - dots] == 0x2E:
            dots += 1
        if dots > 1:
            return dots
        if before & STOPPABLE:
            return 1
        if before & UPPER and b - 3 >= a and chunk[_FLAG, b - 3] & UPPER:
            return 1
        degrees = b - 3 >= a and chunk[_CODE, b - 3] == 0xB0
        return 1 if degrees and chunk[_CODE, b - 2] in (0x46, 0x66, 0x43, 0x63, 0x4B, 0x6B) else 0
    if b - 2 >= a and point in (0x53, 0x73) and chunk[_CODE, b - 2] in (0x27, 0x2019):  # 's
        return 2
    if last & CLOSES:
        return 2 if point == 0x2026 and b - 2 >= a and chunk[_CODE, b - 2] == 0x2026 else 1
    if point == 0x2B:
        return 1 if before & DIGIT else 0
    if last & CURRENCY:
        if point == 0x24:
            if (
                b - 4 >= a
                and chunk[_CODE, b - 2] == 0x53
                and chunk[_CODE, b - 3] == 0x55
                and chunk[_FLAG, b - 4] & DIGIT
            ):
                return 3
            if b - 3 >= a and chunk[_CODE, b - 2] in (0x41, 0x43) and chunk[_FLAG, b - 3] & DIGIT:
                return 2
        return 1 if before & DIGIT else 0
    for size in range(1, _LONGEST_UNIT + 1):
        k = b - 1 - size
        if k < a or chunk[_FLAG, k + 1] & DIGIT:
            break
        if chunk[_FLAG, k] & DIGIT:
            unit = _find_case(units, _hash(data, chunk[_BYTE, k + 1], chunk[_BYTE, b]))
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
                chunk[_CUT, count] = at
                count += 1
            # else the last cut is where this begins
            begun = at + size
            if begun < b:
                chunk[_CUT, count] = begun
                count += 1
        at += size
    return count


@nb.njit(cache=True, nogil=True)
def _between(chunk, at, a, b):  # type: ignore[no-untyped-def]
    """How many characters at `at` are a token between others; 0 if none."""
    point, here = chunk[_CODE, at], chunk[_FLAG, at]
    if here & ICON or point == 0x2026:
        return 1
    if here & ALPHABETIC or here & DIGIT:
        return 0
    before = chunk[_FLAG, at - 1] if at > a else np.int64(0)
    after = chunk[_FLAG, at + 1] if at + 1 < b else np.int64(0)
    if point == 0x2E:
        dots = _dots(chunk, at, b)
        if dots > 1:
            return dots
        return 1 if before & (LOWER | QUOTE) and after & (UPPER | QUOTE) else 0
    if point == 0x2C:
        return 1 if before & ALPHABETIC and after & ALPHABETIC else 0
    counted = after & DIGIT or (at + 1 < b and chunk[_CODE, at + 1] == 0x2D)
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
            if chunk[_FLAG, at + size] & ALPHABETIC:
                return size
            if chunk[_CODE, at + size] != point:
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
        dotted = dotted or chunk[_CODE, k] == 0x2E
    if not dotted:
        return False
    if _is_host(chunk, a, b):
        return True
    k = a
    while k < b and (
        chunk[_FLAG, k] & (LETTER | NUMBER) or chunk[_CODE, k] in (0x5F, 0x2B, 0x2D, 0x2E)
    ):
        k += 1
    scheme = (
        k - a > 1
        and k + 2 < b
        and chunk[_CODE, k] == 0x3A
        and chunk[_CODE, k + 1] == chunk[_CODE, k + 2] == 0x2F
    )
    if scheme and _is_host(chunk, k + 3, b):
        return True
    found = False
    for k in range(a + 1, b):
        found = found or (chunk[_CODE, k] == 0x40 and _is_host(chunk, k + 1, b))
    return found


@nb.njit(cache=True, nogil=True)
def _is_host(chunk, a, b):  # type: ignore[no-untyped-def]
    """Names with dots between, the last of small letters; then a port and a path, or neither."""
    k, label, dots = a, a, 0
    while k < b:
        if chunk[_CODE, k] == 0x2E:
            size = k - label
            if (
                not 0 < size <= 64
                or not chunk[_FLAG, label] & HOST
                or not chunk[_FLAG, k - 1] & HOST
            ):
                return False
            dots += 1
            label = k + 1
        elif not chunk[_FLAG, k] & HOST and chunk[_CODE, k] != 0x5F and chunk[_CODE, k] != 0x2D:
            break
        k += 1
    if dots == 0 or not 2 <= k - label <= 63:
        return False
    for c in range(label, k):
        if not chunk[_FLAG, c] & LOWER:
            return False
    if k < b and chunk[_CODE, k] == 0x3A:
        digits = 0
        while k + 1 + digits < b and chunk[_FLAG, k + 1 + digits] & DIGIT:
            digits += 1
        if not 2 <= digits <= 5:
            return False
        k += 1 + digits
    return k == b or chunk[_CODE, k] == 0x2F or chunk[_CODE, k] == 0x3F or chunk[_CODE, k] == 0x23


@nb.njit(cache=True, nogil=True)
def _join_cases(data, chunk, n, count, cases, pieces, likely):  # type: ignore[no-untyped-def]
    """Find special cases again that were cut, the longest first; the new count."""
    chunk[_CUT, count] = n
    found = False
    taken = chunk[_CUT, :0]
    for size in range(min(_MOST_PIECES, count), 1, -1):
        for first in range(count - size + 1):
            a, b = chunk[_CUT, first], chunk[_CUT, first + size]
            slot = _case(data, chunk[_BYTE, a], chunk[_BYTE, b], likely, cases)
            if slot < 0 or pieces[slot, 1] == 0:
                continue
            pattern = np.uint64(0)
            for k in range(first + 1, first + size):
                pattern |= np.uint64(1) << np.uint64(chunk[_BYTE, chunk[_CUT, k]] - chunk[_BYTE, a])
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
    old = chunk[_CUT, : count + 1].copy()
    kept, k = 0, 0
    while k < count:
        chunk[_CUT, kept] = old[k]
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
