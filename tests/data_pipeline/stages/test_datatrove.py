"""The rules against datatrove's on real texts; runs only where datatrove is installed.

datatrove is given `str.split` as its word tokenizer: its own for English takes commas for words,
and needs spaCy. Texts mostly of scripts without spaces are left out, for there its words, by
`str.split`, are whole sentences.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from tests.data_pipeline.stages.quality_texts import FILES, real_texts
from trivium.data_pipeline.stages.c4 import C4Rules
from trivium.data_pipeline.stages.fineweb import FineWebRules
from trivium.data_pipeline.stages.gopher import GopherQuality, GopherRepetition
from trivium.data_pipeline.stages.stage import Stage, batch
from trivium.data_pipeline.stages.words import analyse

pytest.importorskip("datatrove")

SENTENCE_END = re.compile(r"""[.!?。！？]+(?:["'”’」]|(?=\s|$))|[。！？।؟]+""")


def theirs(name: str, **settings: Any) -> Any:
    from datatrove.pipeline import filters
    from datatrove.utils.word_tokenizers import WordTokenizer

    class Split(WordTokenizer):
        def word_tokenize(self, text: str) -> list[str]:
            return text.split()

        def sent_tokenize(self, text: str) -> list[str]:
            return [text[a:b] for a, b in self.span_tokenize(text)]

        def span_tokenize(self, text: str) -> list[tuple[int, int]]:
            ends = [*(found.end() for found in SENTENCE_END.finditer(text)), len(text)]
            spans = pairwise([0, *ends])
            return [(a, b) for a, b in spans if any(c.isalnum() for c in text[a:b])]

    return getattr(filters, name)(language=Split(), **settings)


@pytest.mark.parametrize("file", [name for name in FILES if name != "chinese_poetry.jsonl.gz"])
@pytest.mark.parametrize(
    ("name", "settings", "ours"),
    [
        ("GopherRepetitionFilter", {}, GopherRepetition()),
        ("GopherQualityFilter", {}, GopherQuality()),
        ("FineWebQualityFilter", {}, FineWebRules()),
        ("C4QualityFilter", {}, C4Rules()),
        ("C4QualityFilter", {"filter_no_terminal_punct": False}, C4Rules(unended_lines="keep")),
    ],
)
def test_decisions_are_those_of_datatrove(
    file: str, name: str, settings: dict[str, Any], ours: Stage
):
    from datatrove.data import Document

    texts = real_texts(file, 500)
    documents = batch(texts)
    kept = np.array([reason is None for reason in ours(documents).reasons.to_pylist()])
    spaced = ~analyse(documents).mostly_unspaced()
    judge = theirs(name, **settings)
    expected = np.array([judge.filter(Document(text=text, id="0")) is True for text in texts])
    # C4: that code knows the marks of English alone as ends of a line, so English texts it is.
    if name == "C4QualityFilter":
        spaced &= np.array([text.isascii() for text in texts])
    same = (kept == expected)[spaced].mean()
    # Not all: a stop word next to a comma is one here, and a `#` on a line of its own is a word.
    assert same >= 0.99, f"{same:.4f} of {spaced.sum()}"
