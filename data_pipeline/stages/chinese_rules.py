"""Rules for Chinese web pages: ChineseWebText, Chen et al. 2023, arXiv 2311.01149, section 3.2.

Its rule on repetition (half of a text in repeated 13-grams) is looser than Gopher's, which counts
letters of Chinese as words; its word lists are what `blocklist` is for.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .characters import count_characters
from .stage import Verdict
from .thresholds import check_thresholds, first_reasons
from .words import analyse, ratio, sum_by_document

# Unicode 16: ideographic zero, extension A, the first block, compatibility, planes 2 and 3
_HAN = ((0x3007, 0x3007), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF))


@dataclass(frozen=True, kw_only=True)
class ChineseRules:
    """Drops texts that are short, of short lines, or not mostly Chinese.

    The lines of the mean are those that are not blank.
    """

    min_characters: int = 200
    min_mean_line: float = 10  # characters
    min_han_fraction: float = 0.3  # of characters that are no white space

    def __post_init__(self) -> None:
        check_thresholds(self)

    def __call__(self, documents: pa.Table) -> Verdict:
        """Judge by the characters and lines of each text."""
        analysis = analyse(documents)
        texts, lines = analysis.texts, analysis.lines
        some = lines.end > lines.start
        length = sum_by_document(np.where(some, lines.characters, 0), lines.of)
        han = count_characters(texts.data, texts.offsets, _han())
        black = analysis.characters - analysis.spaces
        rules = [
            ("too short", analysis.characters < self.min_characters),
            (
                "lines too short",
                ratio(length, sum_by_document(some, lines.of)) < self.min_mean_line,
            ),
            ("too little Chinese", ratio(han, black) < self.min_han_fraction),
        ]
        return Verdict(documents, first_reasons(len(documents), rules))


@cache
def _han() -> NDArray[np.bool_]:
    table = np.zeros(_HAN[-1][1] + 1, np.bool_)
    for first, last in _HAN:
        table[first : last + 1] = True
    return table
