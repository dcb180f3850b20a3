"""What a character is to the tokenizer of `tokens.py`: bits beside those of `characters.py`.

A letter counts as one of the tokenizer's alphabets (Latin, Greek, Cyrillic, and scripts without
case, whose letters are lower and upper case at once) or as no letter at all.
"""

from __future__ import annotations

import string
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .characters import END, LETTER, MARK, character_table

# The low eight bits are those of `characters.py`.
LOWER = 1 << 8
UPPER = 1 << 9
DIGIT = 1 << 10  # 0 to 9
OPENS = 1 << 11  # is cut off where a chunk starts with it
CLOSES = 1 << 12  # is cut off where a chunk ends with it
QUOTE = 1 << 13
STOPPABLE = 1 << 14  # a full stop after it is cut off
ICON = 1 << 15
CURRENCY = 1 << 16
HOST = 1 << 17  # may start and end the label of a host name
BARE = 1 << 18  # a token of such characters alone is no word
PUNCTUATION = 1 << 19  # category P
ALPHABETIC = LOWER | UPPER

_MARKS = "…,:;!?¿؟¡()[]{}<>_#*&。？！，、；：～·।،۔؛٪"
_QUOTES = "'\"”“`‘´’‚„»«「」『』（）〔〕【】《》〈〉⟦⟧"
_CURRENCIES = "$£€¥฿﷼"
# Beside ASCII's, controls and ends of sentences; other signs (`•`, `©`) are words to datatrove.
_BARE = "—–…“”„’«»´►━∶、。，；：！？．％１～（）〈〉《》「」【】"
_LATIN = (
    (0x41, 0x7A),
    (0xC0, 0x24F),
    (0x250, 0x2AF),
    (0x1D00, 0x1D9A),
    (0x1E00, 0x1EFF),
    (0x2C60, 0x2C7F),
    (0xA722, 0xA7B9),
    (0xAB30, 0xAB64),
    (0xFF21, 0xFF5A),
)
_GREEK_AND_CYRILLIC = ((0x386, 0x386), (0x388, 0x3CE), (0x400, 0x45F), (0x490, 0x4E9))
_WITHOUT_CASE = (
    (0x0591, 0x05F4),  # Hebrew
    (0x0620, 0x064A),  # Arabic
    (0x066E, 0x06D5),
    (0x06E5, 0x06FF),
    (0x0750, 0x077F),
    (0x08A0, 0x08BD),
    (0x0900, 0x09FF),  # Devanagari, Bengali
    (0x0B80, 0x0CFF),  # Tamil, Telugu, Kannada
    (0x0D80, 0x0DFF),  # Sinhala
    (0x1100, 0x137F),  # Hangul, Ethiopic
    (0x2E80, 0x30FF),  # Han and Kana
    (0x31C0, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xAC00, 0xD7AF),
    (0xF900, 0xFAFF),
    (0xFB1D, 0xFDFB),
    (0xFE30, 0xFE4F),
    (0xFE70, 0xFEFC),
    (0x20000, 0x2FA1F),
)
_OUTSIDE = "×÷ǀǁǂǃ"  # among the Latin letters, but none


@lru_cache(maxsize=1)
def token_classes() -> NDArray[np.uint32]:
    """uint32 [code points]: the bits of `characters.py` and those above."""
    classes = character_table().classes.astype(np.uint32)
    for first, last in (*_LATIN, *_GREEK_AND_CYRILLIC):
        for code in range(first, last + 1):
            kind = unicodedata.category(chr(code))
            if chr(code) not in _OUTSIDE and kind in ("Ll", "Lu", "Lt"):
                classes[code] |= LOWER if kind == "Ll" else UPPER
    for first, last in _WITHOUT_CASE:
        classes[first : last + 1] |= ALPHABETIC
    for code in range(len(classes)):
        kind = unicodedata.category(chr(code))
        if kind == "So":
            classes[code] |= ICON | OPENS | CLOSES
        if kind[0] == "P":
            classes[code] |= PUNCTUATION
        if kind == "Cc" or (classes[code] & END and not classes[code] & (LETTER | MARK)):
            classes[code] |= BARE
    _add(classes, "0123456789", DIGIT | STOPPABLE)
    _add(classes, _MARKS + _QUOTES, OPENS | CLOSES | STOPPABLE)
    _add(classes, _QUOTES, QUOTE)
    _add(classes, "—–", OPENS | CLOSES)
    _add(classes, "§%=", OPENS)
    _add(classes, "%²-+|", STOPPABLE)
    _add(classes, [*_CURRENCIES, *map(chr, range(0x20A0, 0x20C0))], CURRENCY | OPENS)
    _add(classes, string.punctuation, BARE)
    _add(classes, _BARE, BARE)
    classes[(classes & LOWER) != 0] |= STOPPABLE
    classes[0xA1:0xFFFF] |= HOST
    for letters in (range(0x30, 0x3A), range(0x41, 0x5B), range(0x61, 0x7B)):
        classes[letters.start : letters.stop] |= HOST
    classes.flags.writeable = False
    return classes


def _add(classes: NDArray[np.uint32], characters: Iterable[str], bits: int) -> None:
    for character in characters:
        classes[ord(character)] |= bits
