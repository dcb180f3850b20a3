"""The quality and repetition rules of Gopher: Rae et al. 2021, arXiv 2112.11446, appendix A1.1."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import numba as nb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..errors import InputError
from .repetition import most_frequent_above, repeated_above, repeated_parts
from .stage import Verdict
from .thresholds import check_order, check_thresholds, first_reasons
from .tokens import HAS_LETTER, IS_SYMBOL, IS_UNSPACED
from .words import Splitting, Words, analyse, folded_hashes, ratio, token_hashes

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")

_TOP = {2: 0.20, 3: 0.18, 4: 0.16}
_REPEATED = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}


@dataclass(frozen=True, kw_only=True)
class GopherQuality:
    """Drops what has too few words, odd words, or lines that are not sentences.

    Words of punctuation and symbols alone count neither as words of a document nor in their mean
    length. The rules on word length and stop words are for words set apart by spaces: they do not
    apply where more than half of the words are letters of scripts without (`words.py`).
    """

    min_words: int = 50
    max_words: int = 100_000
    min_mean_word_length: float = 3  # characters
    max_mean_word_length: float = 10
    max_symbols_per_word: float = 0.1  # of `#`, and of ellipses (`...` or `…`)
    max_bullet_fraction: float = 0.9  # of lines that start with `•` or `-`
    max_ellipsis_fraction: float = 0.3  # of lines that end with an ellipsis
    min_letter_fraction: float = 0.8  # of words with a letter
    min_stop_words: int = 2  # different ones of `stop_words`
    # Among tokens they are found as they are written here, as the published code does; among words
    # by white space in either case, next to punctuation or not.
    stop_words: tuple[str, ...] = STOP_WORDS
    words: Splitting = "tokens"  # what a word is: tokens | whitespace

    def __post_init__(self) -> None:
        check_thresholds(self)
        check_order("min_words", "max_words", self)
        check_order("min_mean_word_length", "max_mean_word_length", self)
        if not 0 <= self.min_stop_words <= len(self.stop_words) <= 64:
            raise InputError(
                f"min_stop_words {self.min_stop_words}: at most the {len(self.stop_words)} "
                f"stop_words, of which 64 at most are known"
            )
        split = token_hashes if self.words == "tokens" else folded_hashes
        if any(len(word) != 1 for word in split(self.stop_words)):
            raise InputError(f"stop_words {self.stop_words}: each has to be one word")

    def __call__(self, documents: pa.Table) -> Verdict:
        """Judge by the words and lines of each text."""
        analysis, rows = analyse(documents), len(documents)
        texts, lines, words = analysis.texts, analysis.lines, analysis.split(self.words)
        found = np.zeros((rows, 6), np.int64)
        known, hashes = self._stop_words(words)
        _count_words(words.of, words.characters, words.kind, hashes, known, found)
        real, shaped, length, with_letter, unspaced, stops = found.T
        mean = ratio(length, shaped)
        symbols = np.zeros((rows, 2), np.int64)
        _count_symbols(texts.data, texts.offsets, symbols)
        marked = np.zeros((rows, 2), np.int64)
        _count_marked_lines(texts.data, lines.of, lines.start, lines.end, marked)
        counts, of_lines = words.counts, np.diff(lines.of)
        letters = ratio(with_letter, counts)
        spaced = 2 * unspaced <= counts
        rules = [
            ("too few words", real < self.min_words),
            ("too many words", real > self.max_words),
            ("words too short", spaced & (mean < self.min_mean_word_length)),
            ("words too long", spaced & (mean > self.max_mean_word_length)),
            ("too many hashes", ratio(symbols[:, 0], counts) > self.max_symbols_per_word),
            ("too many ellipses", ratio(symbols[:, 1], counts) > self.max_symbols_per_word),
            ("too many bullet lines", ratio(marked[:, 0], of_lines) > self.max_bullet_fraction),
            (
                "too many lines end in an ellipsis",
                ratio(marked[:, 1], of_lines) > self.max_ellipsis_fraction,
            ),
            ("too few words with a letter", letters < self.min_letter_fraction),
            ("too few stop words", spaced & (stops < self.min_stop_words)),
        ]
        return Verdict(documents, first_reasons(rows, rules))

    def _stop_words(self, words: Words) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """The sorted hashes of the stop words, and the hashes of `words` to find them among."""
        if self.words == "tokens":
            return _hashes(token_hashes, self.stop_words), words.hash
        return _hashes(folded_hashes, self.stop_words), words.folded


@lru_cache(maxsize=8)
def _hashes(
    of: Callable[[tuple[str, ...]], list[NDArray[np.uint64]]], stop_words: tuple[str, ...]
) -> NDArray[np.uint64]:
    return np.unique(np.concatenate([np.zeros(0, np.uint64), *of(stop_words)]))


@dataclass(frozen=True, kw_only=True)
class GopherRepetition:
    """Drops what repeats itself: lines, paragraphs, or runs of words (table A1).

    Fractions of characters are of all characters of the text. What lines are: `repeated_parts`.
    """

    max_line_fraction: float = 0.30  # of lines that were there before
    max_paragraph_fraction: float = 0.30
    max_line_character_fraction: float = 0.20  # of characters in such lines
    max_paragraph_character_fraction: float = 0.20
    top_ngrams: dict[int, float] = field(default_factory=lambda: dict(_TOP))  # n: fraction
    repeated_ngrams: dict[int, float] = field(default_factory=lambda: dict(_REPEATED))
    words: Splitting = "tokens"  # what a word is: tokens | whitespace

    def __post_init__(self) -> None:
        check_thresholds(self)
        for name in ("top_ngrams", "repeated_ngrams"):
            for n, fraction in getattr(self, name).items():
                if n < 1 or not 0 <= fraction <= 1:
                    raise InputError(
                        f"{name} {n}: {fraction}: the words of an n-gram, 1 or more, and a "
                        f"fraction of characters, 0 to 1"
                    )

    def __call__(self, documents: pa.Table) -> Verdict:
        """Judge by what occurs more than once in each text."""
        analysis = analyse(documents)
        size = analysis.characters
        lines = repeated_parts(analysis)
        paragraph, line = ratio(lines[:, 4], lines[:, 3]), ratio(lines[:, 1], lines[:, 0])
        in_paragraph, in_line = ratio(lines[:, 5], size), ratio(lines[:, 2], size)
        rules = [
            ("empty", size == 0),
            ("too many repeated paragraphs", paragraph > self.max_paragraph_fraction),
            (
                "too much text in repeated paragraphs",
                in_paragraph > self.max_paragraph_character_fraction,
            ),
            ("too many repeated lines", line > self.max_line_fraction),
            ("too much text in repeated lines", in_line > self.max_line_character_fraction),
        ]
        words = analysis.split(self.words)
        counts = most_frequent_above(words, self.top_ngrams, size)
        for n, count in zip(sorted(self.top_ngrams), counts.T, strict=True):
            reason = f"too much text in one {n}-gram"
            rules.append((reason, ratio(count, size) > self.top_ngrams[n]))
        counts = repeated_above(words, self.repeated_ngrams, size)
        for n, count in zip(sorted(self.repeated_ngrams), counts.T, strict=True):
            reason = f"too much text in repeated {n}-grams"
            rules.append((reason, ratio(count, size) > self.repeated_ngrams[n]))
        return Verdict(documents, first_reasons(len(documents), rules))


@nb.njit(cache=True, nogil=True)
def _count_symbols(data, offsets, counts):  # type: ignore[no-untyped-def]
    """`#`, and ellipses: three dots (six are two ellipses) or U+2026."""
    for d in range(len(offsets) - 1):
        dots = 0
        for at in range(offsets[d], offsets[d + 1]):
            byte = data[at]
            if byte == 0x2E:
                dots += 1
                if dots == 3:
                    counts[d, 1] += 1
                    dots = 0
                continue
            dots = 0
            if byte == 0x23:
                counts[d, 0] += 1
            elif (
                byte == 0xA6
                and at - offsets[d] >= 2
                and data[at - 1] == 0x80
                and data[at - 2] == 0xE2
            ):
                counts[d, 1] += 1


@nb.njit(cache=True, nogil=True)
def _count_marked_lines(data, of, start, end, counts):  # type: ignore[no-untyped-def]
    """Lines that start with a bullet, and that end with an ellipsis; U+2022 is E2 80 A2."""
    for d in range(len(of) - 1):
        for n in range(of[d], of[d + 1]):
            a, b = start[n], end[n]
            if a == b:
                continue
            wide = b - a >= 3
            bullet = wide and data[a] == 0xE2 and data[a + 1] == 0x80 and data[a + 2] == 0xA2
            if bullet or data[a] == 0x2D:
                counts[d, 0] += 1
            if wide:
                x, y, z = data[b - 3], data[b - 2], data[b - 1]
                dots = x == 0x2E and y == 0x2E and z == 0x2E
                if dots or (x == 0xE2 and y == 0x80 and z == 0xA6):
                    counts[d, 1] += 1


@nb.njit(cache=True, nogil=True)
def _count_words(of, characters, kind, hashes, known, found):  # type: ignore[no-untyped-def]
    """By document: words that are no symbols; of those the spaced ones, and their characters;
    words with a letter; unspaced words; how many of the sorted `known` (64 at most) occur.
    """
    likely = np.zeros(256, np.bool_)  # by eight bits most words are settled without a search
    for key in known:
        likely[key & np.uint64(0xFF)] = True
    for d in range(len(of) - 1):
        real = shaped = length = letters = unspaced = 0
        seen = np.uint64(0)
        for w in range(of[d], of[d + 1]):
            bits = kind[w]
            symbol, of_script = bits & IS_SYMBOL != 0, bits & IS_UNSPACED != 0
            real += not symbol
            letters += bits & HAS_LETTER
            unspaced += of_script
            if not symbol and not of_script:
                shaped += 1
                length += characters[w]
            if likely[hashes[w] & np.uint64(0xFF)]:
                at = np.searchsorted(known, hashes[w])
                if at < len(known) and known[at] == hashes[w]:
                    seen |= np.uint64(1) << np.uint64(at)
        found[d, 0], found[d, 1], found[d, 2] = real, shaped, length
        found[d, 3], found[d, 4] = letters, unspaced
        while seen:
            seen &= seen - np.uint64(1)
            found[d, 5] += 1
