"""Four cheap rules that part running text from debris, in any language."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numba as nb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .repetition import repeated_lines
from .stage import Verdict
from .stop_words import STOP_WORDS
from .thresholds import check_order, check_thresholds, first_reasons
from .words import IS_JOINED, IS_UNSPACED, analyse, folded_hashes, ratio

_STEP = np.uint64(0xD6E8FEB86659FD93)


@dataclass(frozen=True)
class Measures:
    """Of every document, [documents]: its characters, and the shares that `SeedRules` limits."""

    characters: NDArray[np.int64]
    alphanumeric: NDArray[np.float64]
    unique_lines: NDArray[np.float64]
    stop_words: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class SeedRules:
    """Drops texts that are too short or long, or mostly symbols, repeated lines or bare lists."""

    min_characters: int = 100
    max_characters: int = 100_000
    # letters, numbers and combining marks, of all characters but white space
    min_alphanumeric_fraction: float = 0.5
    min_unique_line_fraction: float = 0.3  # different lines, of the lines that are not blank
    # Words that are stop words, of all words. In scripts without spaces each letter is a word, and
    # every letter of a stop word counts.
    min_stop_word_fraction: float = 0.05
    # language: its stop words, white space between; every text is held against all languages
    stop_words: dict[str, str] = field(default_factory=lambda: dict(STOP_WORDS))

    def __post_init__(self) -> None:
        check_thresholds(self)
        check_order("min_characters", "max_characters", self)

    def __call__(self, documents: pa.Table) -> Verdict:
        """Judge by characters, lines and stop words of each text."""
        measures = self.measure(documents)
        rules = [
            ("too short", measures.characters < self.min_characters),
            ("too long", measures.characters > self.max_characters),
            ("too few letters and numbers", measures.alphanumeric < self.min_alphanumeric_fraction),
            ("too few unique lines", measures.unique_lines < self.min_unique_line_fraction),
            ("too few stop words", measures.stop_words < self.min_stop_word_fraction),
        ]
        return Verdict(documents, first_reasons(len(documents), rules))

    def measure(self, documents: pa.Table) -> Measures:
        """What the rules look at."""
        analysis = analyse(documents)
        lines, words = repeated_lines(analysis), analysis.words
        known, longest = _hashes(tuple(self.stop_words.values()))
        stops = np.zeros(len(documents), np.int64)
        _count_stop_words(words.of, words.folded, words.kind, known, longest, stops)
        return Measures(
            analysis.characters,
            ratio(analysis.alphanumeric, analysis.characters - analysis.spaces),
            ratio(lines[:, 0] - lines[:, 1], lines[:, 0]),
            ratio(stops, analysis.word_counts),
        )


@lru_cache(maxsize=4)
def _hashes(languages: tuple[str, ...]) -> tuple[NDArray[np.uint64], int]:
    """A hash table of the stop words (zero is a free slot), and the most words in one of them."""
    stop_words = sorted({word for words in languages for word in words.split()})
    parts = [part for part in folded_hashes(stop_words) if len(part)]
    size = 64
    while size < 4 * len(parts):
        size *= 2
    known = np.zeros(size, np.uint64)
    _fill(known, [_joined(part) for part in parts])
    return known, max((len(part) for part in parts), default=0)


def _joined(part: NDArray[np.uint64]) -> int:
    """The hash of a stop word of several words (letters of an unspaced script)."""
    key = 0
    for value in part.tolist():
        key = ((key ^ value) * int(_STEP)) & 0xFFFFFFFFFFFFFFFF
    return key


def _fill(known: NDArray[np.uint64], keys: list[int]) -> None:
    mask = len(known) - 1
    for key in keys:
        at = (key >> 40) & mask
        while known[at] != 0 and int(known[at]) != key:
            at = (at + 1) & mask
        known[at] = key


@nb.njit(cache=True, nogil=True)
def _count_stop_words(of, folded, kind, known, longest, counts):  # type: ignore[no-untyped-def]
    """Words inside stop words; of several that start at one word the longest counts."""
    mask = len(known) - 1
    for d in range(len(of) - 1):
        w = of[d]
        while w < of[d + 1]:
            key, matched = np.uint64(0), 0
            for k in range(w, min(w + longest, of[d + 1])):
                if k > w and not (kind[w] & kind[k] & IS_UNSPACED and kind[k] & IS_JOINED):
                    break
                key = (key ^ folded[k]) * _STEP
                at = np.int64(key >> np.uint64(40)) & mask
                while known[at] != 0:
                    if known[at] == key:
                        matched = k - w + 1
                        break
                    at = (at + 1) & mask
            counts[d] += matched
            w += max(matched, 1)
