"""The words of a batch, found once and shared by every quality rule.

A word is what stands between white space, as `str.split` finds it; except that in scripts without
spaces between words (Han, Kana, Thai, Lao, Khmer, Myanmar, Tibetan) each letter is a word. Marks
and punctuation belong to the word they touch: `中文，abc` is the words `中`, `文，` and `abc`. So
counts of words, and the rules built on them, mean something in every script, with no setting.

The rules of Gopher and FineWeb were published with other words, which `tokens.py` has: there
punctuation and contractions are words of their own. A stage names its choice as a `Splitting`.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal

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
from .lines import Lines, find_lines
from .stage import Texts, batch
from .tokens import (
    HAS_LETTER,
    IS_JOINED,
    IS_SYMBOL,
    IS_UNSPACED,
    token_tables,
    tokenize,
)

Splitting = Literal["tokens", "whitespace"]

_SEED = np.uint64(0xCBF29CE484222325)
_PRIME = np.uint64(0x9E3779B97F4A7C15)

UNFOLDED = _SEED  # `Words.folded` of every word without letter, number or mark


@dataclass(frozen=True)
class Words:
    """Words of all documents, one after another; word w of document d: of[d] <= w < of[d + 1].

    The bits of `kind`: HAS_LETTER; IS_SYMBOL, nothing but punctuation, symbols and controls;
    IS_UNSPACED, a letter of a script without spaces; IS_JOINED, no white space between it and the
    word before, in such a script.
    """

    of: NDArray[np.int64]  # [documents + 1]
    start: NDArray[np.int64]  # [words] byte in the texts
    characters: NDArray[np.int32]  # [words]
    hash: NDArray[np.uint64]  # [words] of the word as it stands
    kind: NDArray[np.uint8]  # [words]
    # [words] hash of its letters, numbers and marks in lower case; of tokens the same as `hash`
    folded: NDArray[np.uint64]

    @property
    def counts(self) -> NDArray[np.int64]:
        """[documents]"""
        return np.diff(self.of)

    def mostly_unspaced(self) -> NDArray[np.bool_]:
        """[documents]: more than half of the words are letters of scripts without spaces.

        Rules on the shape of words (their length, English stop words) say nothing of such text.
        """
        return 2 * sum_by_document(self.kind & IS_UNSPACED != 0, self.of) > self.counts


class Analysis:
    """What the rules of a batch share; each part is found when it is first asked for."""

    def __init__(self, texts: Texts) -> None:
        self.texts = texts

    @cached_property
    def lines(self) -> Lines:
        """Lines of every text."""
        return find_lines(self.texts)

    @cached_property
    def words(self) -> Words:
        """Words of every text, by white space."""
        return self._counted[0]

    @cached_property
    def tokens(self) -> Words:
        """Words of every text, as `tokens.py` has them."""
        return _tokens(self.texts)

    def split(self, how: Splitting) -> Words:
        """Words by white space, or tokens."""
        return self.tokens if how == "tokens" else self.words

    @property
    def characters(self) -> NDArray[np.int64]:
        """[documents]"""
        return self.lines.text_characters

    @property
    def alphanumeric(self) -> NDArray[np.int64]:
        """[documents] letters, numbers and combining marks."""
        return self._counted[1]

    @property
    def spaces(self) -> NDArray[np.int64]:
        """[documents] white space, newlines too."""
        return self._counted[2]

    @property
    def word_counts(self) -> NDArray[np.int64]:
        """[documents] words by white space."""
        return self.words.counts

    def mostly_unspaced(self) -> NDArray[np.bool_]:
        """[documents] see `Words.mostly_unspaced`."""
        return self.words.mostly_unspaced()

    @cached_property
    def _counted(self) -> tuple[Words, NDArray[np.int64], NDArray[np.int64]]:
        return _words(self.texts)


class _Latest(threading.local):
    """The analysis of the table this thread saw last, for as long as that table lives."""

    table: weakref.ReferenceType[pa.Table] | None = None
    analysis: Analysis | None = None


_latest = _Latest()


def analyse(documents: pa.Table) -> Analysis:
    """Words and lines of every text; found once where stages follow each other on one table."""
    if _latest.table is not None and _latest.table() is documents and _latest.analysis is not None:
        return _latest.analysis
    analysis = Analysis(Texts(documents))
    _latest.table, _latest.analysis = weakref.ref(documents, _forget), analysis
    return analysis


def _forget(table: weakref.ReferenceType[pa.Table]) -> None:
    if _latest.table is table:
        _latest.table = _latest.analysis = None


def _words(texts: Texts) -> tuple[Words, NDArray[np.int64], NDArray[np.int64]]:
    """Words, and by document alphanumeric characters and white space. Views of larger memory."""
    table = character_table()
    rows, size = len(texts), int(texts.offsets[-1] - texts.offsets[0])
    # Two words of one byte each have a space between them; other words have three bytes or more.
    most = size // 2 + rows + 1
    words = _room(rows, most, np.empty(most, np.uint64))
    alphanumeric, spaces = np.zeros((2, rows), np.int64)
    _find_words(
        texts.data,
        texts.offsets,
        table.classes,
        table.lower,
        (words.of, words.start, words.characters, words.hash, words.folded, words.kind),
        alphanumeric,
        spaces,
    )
    return _cut(words, int(words.of[-1])), alphanumeric, spaces


def _tokens(texts: Texts) -> Words:
    """Tokens, in views of larger memory."""
    rows, most = len(texts), int(texts.offsets[-1] - texts.offsets[0])
    words = _room(rows, most, np.empty(0, np.uint64))
    outs = (words.start, words.characters, words.hash, words.kind)
    count = _find_tokens(texts.data, texts.offsets, token_tables(), words.of, outs)
    return _cut(words, count)


def _room(rows: int, most: int, folded: NDArray[np.uint64]) -> Words:
    return Words(
        np.zeros(rows + 1, np.int64),
        np.empty(most, np.int64),
        np.empty(most, np.int32),
        np.empty(most, np.uint64),
        np.empty(most, np.uint8),
        folded,
    )


def _cut(words: Words, count: int) -> Words:
    hashes = words.hash[:count]
    return Words(
        words.of,
        words.start[:count],
        words.characters[:count],
        hashes,
        words.kind[:count],
        words.folded[:count] if len(words.folded) else hashes,
    )


def folded_hashes(words: Iterable[str]) -> list[NDArray[np.uint64]]:
    """For each of `words` the `Words.folded` of the words it is made of (one, where spaced).

    Empty for what has no letter, number or mark: it would be equal to every other such.
    """
    found = Analysis(Texts(batch(list(words)))).words
    parts = [found.folded[a:b] for a, b in pairwise(found.of)]
    return [part if (part != _SEED).any() else part[:0] for part in parts]


def token_hashes(words: Iterable[str]) -> list[NDArray[np.uint64]]:
    """For each of `words` the `Words.hash` of the tokens it is made of."""
    found = Analysis(Texts(batch(list(words)))).tokens
    return [found.hash[a:b] for a, b in pairwise(found.of)]


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
def _find_tokens(data, offsets, tables, of, outs):  # type: ignore[no-untyped-def]
    count = 0
    for d in range(len(offsets) - 1):
        count = tokenize(data, offsets[d], offsets[d + 1], tables, outs, count)
        of[d + 1] = count
    return count


@nb.njit(cache=True, nogil=True)
def _find_words(  # type: ignore[no-untyped-def]
    data, offsets, classes, lower, words, alphanumeric, spaces
):
    word_of, word_start, word_characters, word_hash, word_folded, word_kind = words
    w = 0
    for d in range(len(offsets) - 1):
        at, end = offsets[d], offsets[d + 1]
        alnum = blanks = 0
        in_word = core = False  # core: the word has a letter or number
        joined = False
        kind = np.uint8(0)
        size = np.int32(0)
        exact = folded = _SEED
        while at < end:
            code, step = decode(data, at, end)
            flags = classes[code] if code < len(classes) else np.uint8(0)
            value = np.uint64(code)
            if flags & SPACE:
                blanks += 1
                if in_word:
                    word_characters[w], word_hash[w], word_folded[w] = size, exact, folded
                    word_kind[w] = kind
                    w += 1
                    in_word = False
                joined = False
                at += step
                continue
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
        word_of[d + 1] = w
        alphanumeric[d], spaces[d] = alnum, blanks
