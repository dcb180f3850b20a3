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
from .token_classes import BARE, PUNCTUATION, token_classes
from .token_cuts import (
    BYTE,
    CODE,
    CUT,
    FLAG,
    LONGEST_CASE,
    PRIME,
    SEED,
    cut_chunk,
    cut_unspaced,
    find_case,
    hash_bytes,
    trait,
)

# Bits of `Words.kind`; the first four mean the same in `words.py`.
HAS_LETTER = 1
IS_SYMBOL = 2  # nothing but `BARE` characters
IS_UNSPACED = 4
IS_JOINED = 8  # a letter that follows another one of a script without spaces
IS_PUNCTUATION = 16  # nothing but category P
ENDS_SENTENCE = 32

_UNITS = (
    "km m dm cm mm km² m² dm² cm² mm² km³ m³ dm³ cm³ mm³ ha µm nm yd in ft kg g mg µg t lb oz m/s "
    "km/h kmh mph hPa Pa mbar mb MB kb KB gb GB tb TB T G M K % км м дм см мм нм кг г мг м/с км/ч"
)
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
    likely: NDArray[np.bool_]  # by `trait`: whether a special case may look so
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
        if len(word.encode()) <= LONGEST_CASE
    }
    cases = _hash_table(list(special))
    pieces = np.zeros((len(cases), 2), np.uint64)
    for word, parts in special.items():
        sizes = np.cumsum([len(part.encode()) for part in parts[:-1]], dtype=np.int64)
        key = hash_bytes(np.frombuffer(word, np.uint8), 0, len(word))
        slot = find_case(cases, np.uint64(key))
        likely[trait(word[0], word[-1], len(word))] = True
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
        key = np.uint64(hash_bytes(np.frombuffer(word, np.uint8), 0, len(word)))
        slot = int(key) & (size - 1)
        while keys[slot] not in (0, key):
            slot = (slot + 1) & (size - 1)
        keys[slot] = key
    return keys


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
        first, key = at, SEED
        while at < end and sort[data[at]] == _PLAIN:
            key = (key ^ np.uint64(data[at])) * PRIME
            at += 1
        size = at - first
        whole = at == end or sort[data[at]] == _BLANK
        mark = size > 0 and not whole and (at + 1 == end or sort[data[at + 1]] == _BLANK)
        if mark:  # letters and a mark that always closes, or a full stop
            last = data[at]
            if last == 0x2E:
                mark = data[at - 1] >= 0x61 or (size > 1 and data[at - 2] < 0x61)
                if mark and size < LONGEST_CASE:
                    named = (key ^ np.uint64(last)) * PRIME
                    mark = find_case(cases, named ^ (named >> np.uint64(32))) < 0
            else:
                mark = last == 0x2C or last == 0x3A or last == 0x3B or last == 0x21
                mark = mark or last == 0x3F or last == 0x29
        if (whole and size > 0) or mark:
            key ^= key >> np.uint64(32)
            slot = np.int64(-1)
            if size <= LONGEST_CASE:
                slot = find_case(cases, key)
            if slot >= 0 and pieces[slot, 0] != 0:
                cuts, piece = pieces[slot, 0], first
                for k in range(1, size + 1):
                    if k == size or cuts >> np.uint64(k) & np.uint64(1):
                        start[w], characters[w] = piece, first + k - piece
                        hashes[w], kinds[w] = hash_bytes(data, piece, first + k), HAS_LETTER
                        piece = first + k
                        w += 1
            else:
                start[w], characters[w], hashes[w], kinds[w] = first, size, key, HAS_LETTER
                w += 1
            if mark:
                key = (SEED ^ np.uint64(data[at])) * PRIME
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
            chunk[CODE, n], chunk[FLAG, n], chunk[BYTE, n] = point, flags, at
            seen |= flags
            n += 1
            at += step
        if n == 0:  # white space beyond ASCII
            at += step
            continue
        chunk[BYTE, n] = at
        unspaced = seen & UNSPACED != 0
        if unspaced:
            count = cut_unspaced(chunk, n)
        else:
            count = cut_chunk(data, chunk, n, cases, pieces, likely, units)
        for c in range(count):
            a, b = chunk[CUT, c], (chunk[CUT, c + 1] if c + 1 < count else n)
            start[w], characters[w] = chunk[BYTE, a], b - a
            hashes[w] = hash_bytes(data, chunk[BYTE, a], chunk[BYTE, b])
            kinds[w] = _kind(chunk, a, b, unspaced)
            if unspaced and c > 0:
                kinds[w] |= IS_JOINED
            w += 1
    return w


@nb.njit(cache=True, nogil=True)
def _kind(chunk, a, b, unspaced):  # type: ignore[no-untyped-def]
    seen, every = np.int64(0), np.int64(-1)
    for k in range(a, b):
        seen |= chunk[FLAG, k]
        every &= chunk[FLAG, k]
    kind = np.uint8(0)
    if seen & LETTER:
        kind |= HAS_LETTER
    if every & BARE:
        kind |= IS_SYMBOL
    if every & PUNCTUATION:
        kind |= IS_PUNCTUATION
    if seen & UNSPACED:
        kind |= IS_UNSPACED
    last = chunk[FLAG, b - 1]
    alone = b == a + 1 or (unspaced and chunk[CODE, b - 1] >= 0x80)
    if alone and last & END and not last & (LETTER | MARK | NUMBER):
        kind |= ENDS_SENTENCE
    return kind
