"""The words and lines of a batch, found once and shared by every quality rule.

A word is what stands between white space, as `str.split` finds it; except that in scripts without
spaces between words (Han, Kana, Thai, Lao, Khmer, Myanmar, Tibetan) each letter is a word. Marks
and punctuation belong to the word they touch: `中文，abc` is the words `中`, `文，` and `abc`. So
counts of words, and the rules built on them, mean something in every script, with no setting.

A line ends at a newline; the last one needs none. A paragraph ends at a blank line.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numba as nb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .characters import (
    LETTER,
    MARK,
    NUMBER,
    SPACE,
    SYMBOL,
    UNSPACED,
    character_table,
    decode,
)
from .stage import Texts, batch

# Bits of `Words.kind`
HAS_LETTER = 1  # the word has a letter
IS_SYMBOL = 2  # nothing but punctuation, symbols and controls
IS_UNSPACED = 4  # one letter of a script without spaces
IS_JOINED = 8  # no white space between it and the word before

_SEED = np.uint64(0xCBF29CE484222325)
_PRIME = np.uint64(0x9E3779B97F4A7C15)

UNFOLDED = _SEED  # `Words.folded` of every word without letter, number or mark


@dataclass(frozen=True)
class Words:
    """Words of all documents, one after another; word w of document d: of[d] <= w < of[d + 1]."""

    of: NDArray[np.int64]  # [documents + 1]
    start: NDArray[np.int64]  # [words] byte in the texts
    characters: NDArray[np.int32]  # [words]
    hash: NDArray[np.uint64]  # [words] of the word as it stands
    folded: NDArray[np.uint64]  # [words] of its letters, numbers and marks in lower case
    kind: NDArray[np.uint8]  # [words] the bits above


@dataclass(frozen=True)
class Lines:
    """Lines of all documents, blank ones too; line l of document d: of[d] <= l < of[d + 1]."""

    of: NDArray[np.int64]  # [documents + 1]
    start: NDArray[np.int64]  # [lines] byte of the first character that is no space
    end: NDArray[np.int64]  # [lines] byte past the last one; start == end is a blank line
    characters: NDArray[np.int64]  # [lines] with outer spaces, without the newline
    words: NDArray[np.int64]  # [lines + 1] index of the first word
    hash: NDArray[np.uint64]  # [lines] of the line with its outer spaces


@dataclass(frozen=True)
class Analysis:
    """What the rules of a batch share."""

    texts: Texts
    words: Words
    lines: Lines
    characters: NDArray[np.int64]  # [documents]
    alphanumeric: NDArray[np.int64]  # [documents] letters, numbers and combining marks
    spaces: NDArray[np.int64]  # [documents] white space, newlines too

    @property
    def word_counts(self) -> NDArray[np.int64]:
        """[documents]"""
        return np.diff(self.words.of)

    def mostly_unspaced(self) -> NDArray[np.bool_]:
        """[documents]: more than half of the words are letters of scripts without spaces.

        Rules on the shape of words (their length, English stop words) say nothing of such text.
        """
        return 2 * sum_by_document(self.words.kind & IS_UNSPACED != 0, self.words.of) > (
            self.word_counts
        )


class _Latest(threading.local):
    """The analysis of the table this thread saw last, for as long as that table lives."""

    table: weakref.ReferenceType[pa.Table] | None = None
    analysis: Analysis | None = None


_latest = _Latest()


def analyse(documents: pa.Table) -> Analysis:
    """Words and lines of every text; done once where stages follow each other on one table."""
    if _latest.table is not None and _latest.table() is documents and _latest.analysis is not None:
        return _latest.analysis
    analysis = analyse_texts(Texts(documents))
    _latest.table, _latest.analysis = weakref.ref(documents, _forget), analysis
    return analysis


def _forget(table: weakref.ReferenceType[pa.Table]) -> None:
    if _latest.table is table:
        _latest.table = _latest.analysis = None


def analyse_texts(texts: Texts) -> Analysis:
    """Words and lines of `texts`. The arrays are views of larger, untouched memory."""
    table = character_table()
    rows, size = len(texts), int(texts.offsets[-1] - texts.offsets[0])
    body = texts.data[texts.offsets[0] : texts.offsets[-1]]
    # Two words of one byte each have a space between them; other words have three bytes or more.
    most_words = size // 2 + rows + 1
    most_lines = int(np.count_nonzero(body == 10)) + rows + 1
    words = Words(
        np.zeros(rows + 1, np.int64),
        np.empty(most_words, np.int64),
        np.empty(most_words, np.int32),
        np.empty(most_words, np.uint64),
        np.empty(most_words, np.uint64),
        np.empty(most_words, np.uint8),
    )
    lines = Lines(
        np.zeros(rows + 1, np.int64),
        np.empty(most_lines, np.int64),
        np.empty(most_lines, np.int64),
        np.empty(most_lines, np.int64),
        np.zeros(most_lines + 1, np.int64),
        np.empty(most_lines, np.uint64),
    )
    characters, alphanumeric, spaces = np.zeros((3, rows), np.int64)
    _analyse(
        texts.data,
        texts.offsets,
        table.classes,
        table.lower,
        (words.of, words.start, words.characters, words.hash, words.folded, words.kind),
        (lines.of, lines.start, lines.end, lines.characters, lines.words, lines.hash),
        characters,
        alphanumeric,
        spaces,
    )
    w, n = int(words.of[-1]), int(lines.of[-1])
    return Analysis(
        texts,
        Words(
            words.of,
            words.start[:w],
            words.characters[:w],
            words.hash[:w],
            words.folded[:w],
            words.kind[:w],
        ),
        Lines(
            lines.of,
            lines.start[:n],
            lines.end[:n],
            lines.characters[:n],
            lines.words[: n + 1],
            lines.hash[:n],
        ),
        characters,
        alphanumeric,
        spaces,
    )


def folded_hashes(words: Iterable[str]) -> list[NDArray[np.uint64]]:
    """For each of `words` the `Words.folded` of the words it is made of (one, where spaced).

    Empty for what has no letter, number or mark: it would be equal to every other such.
    """
    analysis = analyse_texts(Texts(batch(list(words))))
    parts = [analysis.words.folded[a:b] for a, b in pairwise(analysis.words.of)]
    return [part if (part != _SEED).any() else part[:0] for part in parts]


def sum_by_document(
    values: NDArray[np.bool_] | NDArray[np.int64], of: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Sums of `values[of[d] : of[d + 1]]`, zero where a document has none."""
    total = np.zeros(len(values) + 1, np.int64)
    np.cumsum(values, out=total[1:])
    return total[of[1:]] - total[of[:-1]]


def ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    """part / whole; zero where whole is."""
    result = np.zeros(len(part), np.float64)
    np.divide(part, whole, out=result, where=whole != 0)
    return result


@nb.njit(cache=True, nogil=True)
def _analyse(  # type: ignore[no-untyped-def]
    data, offsets, classes, lower, words, lines, characters, alphanumeric, spaces
):
    word_of, word_start, word_characters, word_hash, word_folded, word_kind = words
    line_of, line_start, line_end, line_characters, line_words, line_hash = lines
    w = n = 0
    for d in range(len(offsets) - 1):
        at, end = offsets[d], offsets[d + 1]
        seen = alnum = blanks = 0
        in_word = core = False  # core: the word has a letter or number
        joined = False
        kind = np.uint8(0)
        size = np.int32(0)
        exact = folded = whole = _SEED
        line_first = -1  # no character but spaces yet
        line_last = line_from = at
        line_seen = 0
        while at < end:
            code, step = decode(data, at, end)
            flags = classes[code] if code < len(classes) else np.uint8(0)
            seen += 1
            value = np.uint64(code)
            if flags & SPACE:
                blanks += 1
                if in_word:
                    word_characters[w], word_hash[w], word_folded[w] = size, exact, folded
                    word_kind[w] = kind
                    w += 1
                    in_word = False
                joined = False
                if code == 10:
                    line_start[n] = line_first if line_first >= 0 else line_from
                    line_end[n] = line_last if line_first >= 0 else line_from
                    line_characters[n], line_hash[n] = seen - 1 - line_seen, whole
                    n += 1
                    line_words[n] = w
                    line_first, line_from, line_seen, whole = -1, at + step, seen, _SEED
                else:
                    whole = (whole ^ value) * _PRIME
                    whole ^= whole >> np.uint64(29)
                at += step
                continue
            whole = (whole ^ value) * _PRIME
            whole ^= whole >> np.uint64(29)
            if line_first < 0:
                line_first = at
            line_last = at + step
            if in_word and core:
                fresh = flags & UNSPACED or (kind & IS_UNSPACED and flags & (LETTER | NUMBER))
                if fresh:
                    word_characters[w], word_hash[w], word_folded[w] = size, exact, folded
                    word_kind[w] = kind
                    w += 1
                    in_word, joined = False, True
            if not in_word:
                in_word, core = True, False
                word_start[w] = at
                kind = np.uint8(IS_SYMBOL | (IS_JOINED if joined else 0))
                size = np.int32(0)
                exact = folded = _SEED
            size += np.int32(1)
            exact = (exact ^ value) * _PRIME
            exact ^= exact >> np.uint64(29)
            if flags & (LETTER | NUMBER | MARK):
                alnum += 1
                small = np.uint64(lower[code])
                folded = (folded ^ small) * _PRIME
                folded ^= folded >> np.uint64(29)
                if flags & LETTER:
                    kind |= np.uint8(HAS_LETTER)
                if flags & UNSPACED:
                    kind |= np.uint8(IS_UNSPACED)
                if not flags & MARK:
                    core = True
            if not flags & SYMBOL:
                kind &= np.uint8(0xFF ^ IS_SYMBOL)
            at += step
        if in_word:
            word_characters[w], word_hash[w], word_folded[w] = size, exact, folded
            word_kind[w] = kind
            w += 1
        if line_from < end:
            line_start[n] = line_first if line_first >= 0 else line_from
            line_end[n] = line_last if line_first >= 0 else line_from
            line_characters[n], line_hash[n] = seen - line_seen, whole
            n += 1
            line_words[n] = w
        word_of[d + 1], line_of[d + 1] = w, n
        characters[d], alphanumeric[d], spaces[d] = seen, alnum, blanks
