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

# Bytes, to skip through plain words
_PLAIN, _BLANK, _OTHER, _WIDE = 0, 1, 2, 3


class TokenTables(NamedTuple):
    """What the tokenizer looks up. Hash tables are open; the key 0 is a free slot.

    bytes: uint8 [256], a letter of ASCII, white space, other ASCII, or part of a longer character.
    classes: uint32 [code points]. cases: hashes of special cases; case_cuts and case_patterns: a
    bit for each byte at which another piece begins, with the case and without (0: one piece).
    """

    bytes: NDArray[np.uint8]
    classes: NDArray[np.uint32]
    cases: NDArray[np.uint64]
    case_cuts: NDArray[np.uint64]
    case_patterns: NDArray[np.uint64]
    units: NDArray[np.uint64]


@lru_cache(maxsize=1)
def token_tables() -> TokenTables:
    """The tables, filled once in a process."""
    classes = token_classes()
    kinds = np.full(256, _WIDE, np.uint8)
    for code in range(128):
        letter, space = chr(code).isalpha(), chr(code).isspace()
        kinds[code] = _PLAIN if letter else _BLANK if space else _OTHER
    free = np.zeros(1, np.uint64)
    units = _hash_set([unit.encode() for unit in _UNITS.split()])
    plain = TokenTables(kinds, classes, free, free, free, units)
    cases = {
        word.encode(): pieces
        for word, pieces in special_cases().items()
        if len(word.encode()) <= _LONGEST_CASE
    }
    keys = _hash_set(list(cases))
    cuts, patterns = np.zeros((2, len(keys)), np.uint64)
    for word, pieces in cases.items():
        sizes = np.cumsum([len(piece.encode()) for piece in pieces[:-1]], dtype=np.int64)
        slot = _find_case(keys, np.uint64(_hash(np.frombuffer(word, np.uint8), 0, len(word))))
        cuts[slot] = sum(1 << int(size) for size in sizes)
        starts = tokenize_bytes(word, plain)[0]
        patterns[slot] = sum(1 << int(start) for start in starts[1:])
    return TokenTables(kinds, classes, keys, cuts, patterns, units)


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


def _hash_set(words: list[bytes]) -> NDArray[np.uint64]:
    """An open hash table of `words`, an eighth full at most: most lookups end at a free slot."""
    size = 64
    while size < 8 * len(words):
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
    sort, classes = tables.bytes, tables.classes
    code, flag = np.empty(256, np.int32), np.empty(256, np.uint32)
    byte, cut = np.empty(257, np.int64), np.empty(257, np.int64)
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
                    named ^= named >> np.uint64(32)
                    mark = _find_case(tables.cases, named) < 0
            else:
                mark = last == 0x2C or last == 0x3A or last == 0x3B or last == 0x21
                mark = mark or last == 0x3F or last == 0x29
        if (whole and size > 0) or mark:
            key ^= key >> np.uint64(32)
            slot = np.int64(-1)
            if size <= _LONGEST_CASE:
                slot = _find_case(tables.cases, key)
            if slot >= 0 and tables.case_cuts[slot] != 0:
                cuts, piece = tables.case_cuts[slot], first
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
        seen = np.uint32(0)
        while at < end:
            point, step = decode(data, at, end)
            flags = classes[point] if point < len(classes) else np.uint32(0)
            if flags & SPACE:
                break
            if n == len(code):
                code, flag = _longer(code), _longer(flag)
                byte, cut = _longer(byte), _longer(cut)
            code[n], flag[n], byte[n] = point, flags, at
            seen |= flags
            n += 1
            at += step
        if n == 0:  # white space beyond ASCII
            at += step
            continue
        byte[n] = at
        unspaced = seen & UNSPACED != 0
        if unspaced:
            count = _cut_unspaced(flag, n, cut)
        else:
            count = _cut_chunk(data, code, flag, byte, n, cut, tables)
        for c in range(count):
            a, b = cut[c], (cut[c + 1] if c + 1 < count else n)
            start[w], characters[w] = byte[a], b - a
            hashes[w] = _hash(data, byte[a], byte[b])
            kinds[w] = _kind(code, flag, a, b, unspaced)
            if unspaced and c > 0:
                kinds[w] |= IS_JOINED
            w += 1
    return w


@nb.njit(cache=True, nogil=True)
def _longer(array):  # type: ignore[no-untyped-def]
    longer = np.empty(2 * len(array) + 1, array.dtype)
    longer[: len(array)] = array
    return longer


@nb.njit(cache=True, nogil=True)
def _kind(code, flag, a, b, unspaced):  # type: ignore[no-untyped-def]
    seen, every = np.uint32(0), np.uint32(0xFFFFFFFF)
    for k in range(a, b):
        seen |= flag[k]
        every &= flag[k]
    kind = np.uint8(0)
    if seen & LETTER:
        kind |= HAS_LETTER
    if every & BARE:
        kind |= IS_SYMBOL
    if every & PUNCTUATION:
        kind |= IS_PUNCTUATION
    if seen & UNSPACED:
        kind |= IS_UNSPACED
    last = flag[b - 1]
    alone = b == a + 1 or (unspaced and code[b - 1] >= 0x80)
    if alone and last & END and not last & (LETTER | MARK | NUMBER):
        kind |= ENDS_SENTENCE
    return kind


@nb.njit(cache=True, nogil=True)
def _cut_unspaced(flag, n, cut):  # type: ignore[no-untyped-def]
    """Where words begin in a chunk with letters of a script without spaces (see `words.py`)."""
    cut[0], count = 0, 1
    core = unspaced = False
    for k in range(n):
        if core and (flag[k] & UNSPACED or (unspaced and flag[k] & (LETTER | NUMBER))):
            cut[count] = k
            count += 1
            core = unspaced = False
        if flag[k] & UNSPACED:
            unspaced = True
        if flag[k] & (LETTER | NUMBER):
            core = True
    return count


@nb.njit(cache=True, nogil=True, inline="always")
def _case(data, byte, a, b, cases):  # type: ignore[no-untyped-def]
    """The slot of the special case that characters a to b are, or -1."""
    if a == b or byte[b] - byte[a] > _LONGEST_CASE:
        return np.int64(-1)
    return _find_case(cases, _hash(data, byte[a], byte[b]))


@nb.njit(cache=True, nogil=True)
def _cut_chunk(data, code, flag, byte, n, cut, tables):  # type: ignore[no-untyped-def]
    """Where tokens begin in a chunk of `n` characters; how many."""
    cases = tables.cases
    a, b, count, closing = 0, n, 0, n
    slot = np.int64(-1)
    # The ends of what was cut off behind are kept from the far end of `cut`, backwards.
    while a < b:
        slot = _case(data, byte, a, b, cases)
        if slot >= 0:
            break
        opens = _opening(code, flag, a, b)
        if opens and a + opens < b:
            slot = _case(data, byte, a + opens, b, cases)
            if slot >= 0:
                cut[count] = a
                count += 1
                a += opens
                break
        closes = _closing(data, code, flag, byte, a + opens, b, tables.units)
        if closes and a < b - closes:
            slot = _case(data, byte, a, b - closes, cases)
            if slot >= 0:
                b -= closes
                cut[closing] = b
                closing -= 1
                break
        if opens:
            cut[count] = a
            count += 1
            a += opens
        if closes:
            b -= closes
            cut[closing] = b
            closing -= 1
        if not opens and not closes:
            break
    if a < b:
        cut[count] = a
        count += 1
        if slot >= 0:
            count = _cut_case(byte, a, b, tables.case_cuts[slot], cut, count)
        elif not _is_url(code, flag, a, b):
            count = _cut_inside(code, flag, a, b, cut, count)
    for k in range(closing + 1, n + 1):
        # read before it is overwritten: count <= k
        cut[count + k - closing - 1] = cut[k]
    count += n - closing
    # `cut[closing + 1 :]` ran from the inside to the outside: it is in order already
    return _join_cases(data, byte, n, cut, count, tables) if count > 1 else count


@nb.njit(cache=True, nogil=True)
def _cut_case(byte, a, b, cuts, cut, count):  # type: ignore[no-untyped-def]
    for k in range(a + 1, b):
        if cuts >> np.uint64(byte[k] - byte[a]) & np.uint64(1):
            cut[count] = k
            count += 1
    return count


@nb.njit(cache=True, nogil=True)
def _opening(code, flag, a, b):  # type: ignore[no-untyped-def]
    """How many characters at `a` are cut off in front."""
    point = code[a]
    if flag[a] & OPENS:
        return 1
    if point == 0x2B:  # + but not of a number
        return 0 if a + 1 < b and flag[a + 1] & DIGIT else 1
    if point == 0x2E:
        dots = _dots(code, a, b)
        return dots if dots > 1 else 0
    if point == 0x55 and a + 2 < b and code[a + 1] == 0x53 and code[a + 2] == 0x24:  # US$
        return 3
    if (point == 0x43 or point == 0x41) and a + 1 < b and code[a + 1] == 0x24:  # C$, A$
        return 2
    return 0


@nb.njit(cache=True, nogil=True, inline="always")
def _dots(code, a, b):  # type: ignore[no-untyped-def]
    count = 0
    while a + count < b and code[a + count] == 0x2E:
        count += 1
    return count


@nb.njit(cache=True, nogil=True)
def _closing(data, code, flag, byte, a, b, units):  # type: ignore[no-untyped-def]
    """How many characters before `b` are cut off behind; of several ways the longest."""
    if a >= b:
        return 0
    last, point = flag[b - 1], code[b - 1]
    before = flag[b - 2] if b - 2 >= a else np.uint32(0)
    if point == 0x2E:
        dots = 1
        while b - 1 - dots >= a and code[b - 1 - dots] == 0x2E:
            dots += 1
        if dots > 1:
            return dots
        if before & STOPPABLE:
            return 1
        if before & UPPER and b - 3 >= a and flag[b - 3] & UPPER:
            return 1
        degrees = b - 3 >= a and code[b - 3] == 0xB0
        return 1 if degrees and code[b - 2] in (0x46, 0x66, 0x43, 0x63, 0x4B, 0x6B) else 0
    if b - 2 >= a and point in (0x53, 0x73) and code[b - 2] in (0x27, 0x2019):  # 's
        return 2
    if last & CLOSES:
        return 2 if point == 0x2026 and b - 2 >= a and code[b - 2] == 0x2026 else 1
    if point == 0x2B:
        return 1 if before & DIGIT else 0
    if last & CURRENCY:
        if point == 0x24:
            if b - 4 >= a and code[b - 2] == 0x53 and code[b - 3] == 0x55 and flag[b - 4] & DIGIT:
                return 3
            if b - 3 >= a and code[b - 2] in (0x41, 0x43) and flag[b - 3] & DIGIT:
                return 2
        return 1 if before & DIGIT else 0
    for size in range(1, _LONGEST_UNIT + 1):
        k = b - 1 - size
        if k < a or flag[k + 1] & DIGIT:
            break
        if flag[k] & DIGIT:
            unit = _find_case(units, _hash(data, byte[k + 1], byte[b]))
            return size if unit >= 0 else 0
    return 0


@nb.njit(cache=True, nogil=True)
def _cut_inside(code, flag, a, b, cut, count):  # type: ignore[no-untyped-def]
    """Cuts around what stands between letters or digits; something at the very start stays."""
    begun, at = a, a
    while at < b:
        size = _between(code, flag, at, a, b)
        if size == 0:
            at += 1
            continue
        if at > a:
            if at != begun:
                cut[count] = at
                count += 1
            # else the last cut is where this begins
            begun = at + size
            if begun < b:
                cut[count] = begun
                count += 1
        at += size
    return count


@nb.njit(cache=True, nogil=True)
def _between(code, flag, at, a, b):  # type: ignore[no-untyped-def]
    """How many characters at `at` are a token between others; 0 if none."""
    point, here = code[at], flag[at]
    if here & ICON or point == 0x2026:
        return 1
    if here & ALPHABETIC or here & DIGIT:
        return 0
    before = flag[at - 1] if at > a else np.uint32(0)
    after = flag[at + 1] if at + 1 < b else np.uint32(0)
    if point == 0x2E:
        dots = _dots(code, at, b)
        if dots > 1:
            return dots
        return 1 if before & (LOWER | QUOTE) and after & (UPPER | QUOTE) else 0
    if point == 0x2C:
        return 1 if before & ALPHABETIC and after & ALPHABETIC else 0
    counted = after & DIGIT or (at + 1 < b and code[at + 1] == 0x2D)
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
            if flag[at + size] & ALPHABETIC:
                return size
            if code[at + size] != point:
                return 0
        return 0
    if point == 0x2013 or point == 0x7E:
        return 1 if after & ALPHABETIC else 0
    return 0


@nb.njit(cache=True, nogil=True)
def _is_url(code, flag, a, b):  # type: ignore[no-untyped-def]
    """Whether all of it is a URL, host name or address: [scheme://][user@]host[:port][/...]."""
    if b - a < 4:
        return False
    dotted = False
    for k in range(a + 1, b):
        dotted = dotted or code[k] == 0x2E
    if not dotted:
        return False
    if _is_host(code, flag, a, b):
        return True
    k = a
    while k < b and (flag[k] & (LETTER | NUMBER) or code[k] in (0x5F, 0x2B, 0x2D, 0x2E)):
        k += 1
    scheme = k - a > 1 and k + 2 < b and code[k] == 0x3A and code[k + 1] == code[k + 2] == 0x2F
    if scheme and _is_host(code, flag, k + 3, b):
        return True
    found = False
    for k in range(a + 1, b):
        found = found or (code[k] == 0x40 and _is_host(code, flag, k + 1, b))
    return found


@nb.njit(cache=True, nogil=True)
def _is_host(code, flag, a, b):  # type: ignore[no-untyped-def]
    """Names with dots between, the last of small letters; then a port and a path, or neither."""
    k, label, dots = a, a, 0
    while k < b:
        if code[k] == 0x2E:
            size = k - label
            if not 0 < size <= 64 or not flag[label] & HOST or not flag[k - 1] & HOST:
                return False
            dots += 1
            label = k + 1
        elif not flag[k] & HOST and code[k] != 0x5F and code[k] != 0x2D:
            break
        k += 1
    if dots == 0 or not 2 <= k - label <= 63:
        return False
    for c in range(label, k):
        if not flag[c] & LOWER:
            return False
    if k < b and code[k] == 0x3A:
        digits = 0
        while k + 1 + digits < b and flag[k + 1 + digits] & DIGIT:
            digits += 1
        if not 2 <= digits <= 5:
            return False
        k += 1 + digits
    return k == b or code[k] == 0x2F or code[k] == 0x3F or code[k] == 0x23


@nb.njit(cache=True, nogil=True)
def _join_cases(data, byte, n, cut, count, tables):  # type: ignore[no-untyped-def]
    """Find special cases again that were cut, the longest first; the new count."""
    cut[count] = n
    found = False
    taken = cut[:0]
    for size in range(min(_MOST_PIECES, count), 1, -1):
        for first in range(count - size + 1):
            a, b = cut[first], cut[first + size]
            slot = _case(data, byte, a, b, tables.cases)
            if slot < 0 or tables.case_patterns[slot] == 0:
                continue
            pattern = np.uint64(0)
            for k in range(first + 1, first + size):
                pattern |= np.uint64(1) << np.uint64(byte[cut[k]] - byte[a])
            if pattern != tables.case_patterns[slot]:
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
    old = cut[: count + 1].copy()
    kept, k = 0, 0
    while k < count:
        cut[kept] = old[k]
        kept += 1
        if taken[k] >= 2:
            last = k + 1
            while last < count and taken[last] < 0:
                last += 1
            cuts = tables.case_cuts[taken[k] - 2]
            kept = _cut_case(byte, old[k], old[last], cuts, cut, kept)
            k = last
        else:
            k += 1
    return kept
