"""The rules against datatrove's on real texts; runs only where datatrove and spaCy are installed.

datatrove is as it comes, with spaCy's words. Once more with `str.split` for words, where texts in
scripts without spaces are left out: there its words are whole sentences.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.data_pipeline.stages.quality_texts import FILES, real_texts
from tools.benchmarks.data_filters import IN_A_ROW, PAIRS, compare, english_parts
from trivium.data_pipeline.stages.fineweb import FineWebRules
from trivium.data_pipeline.stages.gopher import GopherQuality, GopherRepetition
from trivium.data_pipeline.stages.stage import Stage, batch
from trivium.data_pipeline.stages.words import analyse

pytest.importorskip("datatrove")
pytest.importorskip("spacy")


@pytest.mark.parametrize(
    ("file", "most"),
    [
        ("c4_sample.jsonl.gz", 60),
        ("openstax_biology_en.jsonl.gz", 15),
        ("python_peps_en.jsonl.gz", 15),
        ("classic_books_en.jsonl.gz", 1),
        pytest.param("c4_sample.jsonl.gz", 10_000, marks=pytest.mark.slow),
        pytest.param("openstax_biology_en.jsonl.gz", 10_000, marks=pytest.mark.slow),
        pytest.param("python_peps_en.jsonl.gz", 10_000, marks=pytest.mark.slow),
        pytest.param("classic_books_en.jsonl.gz", 8, marks=pytest.mark.slow),
    ],
)
def test_decisions_and_reasons_are_those_of_datatrove(file: str, most: int):
    documents = english_parts(iter(real_texts(file, most)))
    if most < 200:
        documents = documents[:60]
    figures = compare(documents)["filters"]
    assert set(figures) == {*PAIRS, IN_A_ROW}
    for name, found in figures.items():
        assert found["equal_decisions"] >= 0.999, (name, found["differences"])
        assert found["other_texts"] <= 0.001 * len(documents)
    assert file != FILES[0] or figures["quality"]["dropped"] > 0


def theirs(name: str, **settings: Any) -> Any:
    from datatrove.pipeline import filters
    from datatrove.utils.word_tokenizers import WordTokenizer

    class Split(WordTokenizer):
        def word_tokenize(self, text: str) -> list[str]:
            return text.split()

        def sent_tokenize(self, text: str) -> list[str]:
            raise NotImplementedError

        def span_tokenize(self, text: str) -> list[tuple[int, int]]:
            raise NotImplementedError

    return getattr(filters, name)(language=Split(), **settings)


@pytest.mark.parametrize("file", [name for name in FILES if name != "chinese_poetry.jsonl.gz"])
@pytest.mark.parametrize(
    ("name", "settings", "ours"),
    [
        ("GopherRepetitionFilter", {}, GopherRepetition(words="whitespace")),
        ("GopherQualityFilter", {}, GopherQuality(words="whitespace")),
        ("FineWebQualityFilter", {}, FineWebRules(words="whitespace")),
    ],
)
def test_decisions_by_white_space_are_those_of_datatrove_with_split(
    file: str, name: str, settings: dict[str, Any], ours: Stage
):
    from datatrove.data import Document

    texts = real_texts(file, 100)
    documents = batch(texts)
    kept = np.array([reason is None for reason in ours(documents).reasons.to_pylist()])
    spaced = ~analyse(documents).mostly_unspaced()
    judge = theirs(name, **settings)
    expected = np.array([judge.filter(Document(text=text, id="0")) is True for text in texts])
    same = (kept == expected)[spaced].mean()
    # Not all: a stop word next to a comma is one here, and a `#` on a line of its own is a word.
    assert same >= 0.99, f"{same:.4f} of {spaced.sum()}"
