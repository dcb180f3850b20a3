"""The rules FineWeb added to those of Gopher and C4: Penedo et al. 2024, arXiv 2406.17557."""

from __future__ import annotations

from dataclasses import dataclass

import numba as nb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .characters import END, character_table, decode
from .repetition import repeated_lines
from .stage import Texts, Verdict
from .thresholds import check_thresholds, first_reasons
from .words import Analysis, Splitting, analyse, ratio

_BLANK = (9, 10, 11, 12, 13, 28, 29, 30, 31, 32)


@dataclass(frozen=True, kw_only=True)
class FineWebRules:
    """Drops lists and menus: lines without a full stop, short lines, repeated lines.

    Lines are those that are not blank. A line ends a sentence if its last character, before the
    newline, is a terminal mark of any script; in Thai and Lao, which have none, if it is a letter
    or mark. A mark with spaces behind it does not count: `normalize` takes them away.
    """

    min_ended_line_fraction: float = 0.12
    max_short_line_fraction: float = 0.67
    short_line: int = 30  # characters; a line of as many is short
    # Of characters but newlines. The paper drops from 0.1 on; the authors' code (datatrove 0.10.1)
    # has 0.01 as its default, and so has this.
    max_repeated_line_character_fraction: float = 0.01
    max_newlines_per_word: float = 0.3  # of datatrove, not in the paper
    words: Splitting = "tokens"  # what a word is: tokens | whitespace

    def __post_init__(self) -> None:
        check_thresholds(self)

    def __call__(self, documents: pa.Table) -> Verdict:
        """Judge by the lines of each text."""
        analysis = analyse(documents)
        lines, rows = analysis.lines, len(documents)
        repeated = repeated_lines(analysis)
        counts = np.zeros((rows, 3), np.int64)
        _count_lines(
            analysis.texts.data,
            analysis.texts.offsets,
            (lines.of, lines.start, lines.end, lines.characters),
            character_table().classes,
            self.short_line,
            counts,
        )
        ended, short, newlines = counts.T
        text = analysis.characters - newlines
        in_repeated = ratio(repeated[:, 2], text)
        per_word = self._newlines_per_word(documents, newlines)
        rules = [
            ("empty", repeated[:, 0] == 0),
            (
                "too few lines end a sentence",
                ratio(ended, repeated[:, 0]) < self.min_ended_line_fraction,
            ),
            ("too many short lines", ratio(short, repeated[:, 0]) > self.max_short_line_fraction),
            (
                "too much text in repeated lines",
                in_repeated > self.max_repeated_line_character_fraction,
            ),
            ("too many newlines", per_word > self.max_newlines_per_word),
        ]
        return Verdict(documents, first_reasons(rows, rules))

    def _newlines_per_word(
        self, documents: pa.Table, newlines: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """[documents]; an upper bound where that is below the limit, to count few tokens."""
        analysis = analyse(documents)
        if self.words == "whitespace":
            return ratio(newlines, np.maximum(analysis.word_counts, 1))
        counts = np.zeros(len(documents), np.int64)
        _count_chunks(analysis.texts.data, analysis.texts.offsets, counts)
        unsure = np.flatnonzero(newlines > counts * self.max_newlines_per_word)
        if len(unsure):
            counts[unsure] = Analysis(Texts(documents.take(unsure))).tokens.counts
        return ratio(newlines, np.maximum(counts, 1))


@nb.njit(cache=True, nogil=True)
def _count_chunks(data, offsets, counts):  # type: ignore[no-untyped-def]
    """Chunks between ASCII white space with an ASCII character or the first of a letter's bytes.

    Never more than there are words: bytes that may begin a wider white space do not count.
    """
    for d in range(len(offsets) - 1):
        count, inside = 0, False
        for at in range(offsets[d], offsets[d + 1]):
            byte = data[at]
            if byte <= 0x20:
                inside = inside and byte not in _BLANK
            elif not inside and (byte < 0x80 or byte == 0xC3 or 0xD0 <= byte < 0xE0 or byte > 0xE3):
                inside = True
                count += 1
        counts[d] = count


@nb.njit(cache=True, nogil=True, inline="always")
def _line_ends(data, at, end):  # type: ignore[no-untyped-def]
    """Whether nothing but a newline, maybe after a carriage return, follows up to `end`."""
    if at < end and data[at] == 13:
        at += 1
    return at == end or data[at] == 10


@nb.njit(cache=True, nogil=True)
def _count_lines(data, offsets, lines, classes, short_line, counts):  # type: ignore[no-untyped-def]
    """Lines that end a sentence, short lines, newlines."""
    of, start, end, characters = lines
    for d in range(len(of) - 1):
        for n in range(of[d], of[d + 1]):
            if start[n] == end[n]:
                continue
            if _line_ends(data, end[n], offsets[d + 1]):
                at = end[n] - 1
                while at > start[n] and data[at] & 0xC0 == 0x80:
                    at -= 1
                code, _ = decode(data, at, end[n])
                if code < len(classes) and classes[code] & END:
                    counts[d, 0] += 1
            if characters[n] <= short_line:
                counts[d, 1] += 1
        newlines = of[d + 1] - of[d]
        if newlines and data[offsets[d + 1] - 1] != 10:
            newlines -= 1
        counts[d, 2] = newlines
