"""What a character is to a quality rule: one table over the code points, and UTF-8 read by numba.

The classes follow Python's `str.isspace`, `str.isalpha`, `str.isalnum` and the general categories
of `unicodedata`, so that a rule here and the same rule in Python see the same characters.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import NamedTuple

import numba as nb
import numpy as np
from numpy.typing import NDArray

SPACE = 1  # str.isspace
LETTER = 2  # str.isalpha
NUMBER = 4  # alphanumeric and no letter
MARK = 8  # combining: category M
UNSPACED = 16  # a letter of a script that sets no spaces between words
SYMBOL = 32  # punctuation, symbols, controls: categories P, S, C
END = 64  # can end a sentence

# Beyond it lie private use and variation selectors, which belong to no class.
_ASSIGNED = 0x32400

# Scripts that are written without spaces between words (Unicode 16 blocks). Hangul sets spaces.
_UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x0F00, 0x0FFF),  # Tibetan
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x1950, 0x19DF),  # Tai Le, New Tai Lue
    (0x1A20, 0x1AAF),  # Tai Tham
    (0x3005, 0x3007),  # ideographic iteration mark and zero
    (0x3040, 0x312F),  # Hiragana, Katakana, Bopomofo
    (0x31A0, 0x31FF),  # their extensions
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0x9FFF),
    (0xA9E0, 0xA9FF),  # Myanmar extensions
    (0xAA60, 0xAA7F),
    (0xF900, 0xFAFF),  # Han, compatibility
    (0xFF66, 0xFF9D),  # Katakana, half width
    (0x1AFF0, 0x1B16F),  # Kana extensions
    (0x20000, 0x323AF),  # Han extensions
)
# Sentence_Terminal of the Unicode Character Database, the scripts in living use.
_TERMINALS = ".!?։؝؞؟۔܀܁܂߹।॥၊။።፧፨᙮។៕᠃᠉‼‽⁇⁈⁉⸮。꓿꘎꘏꛳꛷﹒﹖﹗！．？｡།༎"
# Thai and Lao have no mark that ends a sentence: there any letter or mark can end one.
_WITHOUT_TERMINAL = (0x0E00, 0x0EFF)


class CharacterTable(NamedTuple):
    """classes: uint8 [code points], the bits above; lower: int32 [code points], lower case."""

    classes: NDArray[np.uint8]
    lower: NDArray[np.int32]


@lru_cache(maxsize=1)
def character_table() -> CharacterTable:
    """The table of this Python's Unicode; code points past its end are of no class."""
    classes = np.zeros(_ASSIGNED, np.uint8)
    lower = np.arange(_ASSIGNED, dtype=np.int32)
    for code in range(_ASSIGNED):
        character = chr(code)
        kind = unicodedata.category(character)[0]
        if character.isalpha():
            classes[code] = LETTER
        elif character.isalnum():
            classes[code] = NUMBER
        elif kind == "M":
            classes[code] = MARK
        elif kind in "PSC":
            classes[code] = SYMBOL
        if character.isspace():
            classes[code] |= SPACE
        small = character.lower()
        if len(small) == 1:
            lower[code] = ord(small)
    for first, last in _UNSPACED:
        block = classes[first : last + 1]
        block[block & LETTER != 0] |= UNSPACED
    first, last = _WITHOUT_TERMINAL
    block = classes[first : last + 1]
    block[block & (LETTER | MARK) != 0] |= END
    for character in _TERMINALS:
        classes[ord(character)] |= END
    classes.flags.writeable = False
    lower.flags.writeable = False
    return CharacterTable(classes, lower)


@nb.njit(cache=True, nogil=True, inline="always")
def decode(data, at, end):  # type: ignore[no-untyped-def]
    """(code point, bytes) at `data[at]`; a byte that is not UTF-8 is U+FFFD. Needs `at < end`."""
    first = data[at]
    if first < 0x80:
        return np.int32(first), 1
    if first >= 0xF0 and at + 3 < end:
        code = (
            (np.int32(first & 0x07) << 18)
            | (np.int32(data[at + 1] & 0x3F) << 12)
            | (np.int32(data[at + 2] & 0x3F) << 6)
            | np.int32(data[at + 3] & 0x3F)
        )
        return np.int32(code), 4
    if 0xE0 <= first < 0xF0 and at + 2 < end:
        code = (
            (np.int32(first & 0x0F) << 12)
            | (np.int32(data[at + 1] & 0x3F) << 6)
            | np.int32(data[at + 2] & 0x3F)
        )
        return np.int32(code), 3
    if 0xC0 <= first < 0xE0 and at + 1 < end:
        return np.int32((np.int32(first & 0x1F) << 6) | np.int32(data[at + 1] & 0x3F)), 2
    return np.int32(0xFFFD), 1


@nb.njit(cache=True, nogil=True)
def count_characters(data, offsets, wanted):  # type: ignore[no-untyped-def]
    """int64 [texts]: characters whose entry in the table `wanted` (bool [code points]) is true."""
    counts = np.zeros(len(offsets) - 1, np.int64)
    for text in range(len(counts)):
        at, end = offsets[text], offsets[text + 1]
        while at < end:
            code, step = decode(data, at, end)
            at += step
            if code < len(wanted) and wanted[code]:
                counts[text] += 1
    return counts
