"""Rules for Chinese pages at their thresholds and one step past."""

from __future__ import annotations

import pytest

from trivium.data_pipeline.errors import InputError
from trivium.data_pipeline.stages.chinese_rules import ChineseRules
from trivium.data_pipeline.stages.stage import batch


def reason(text: str, rules: ChineseRules | None = None) -> str | None:
    return (rules or ChineseRules())(batch([text])).reasons.to_pylist()[0]


SENTENCE = "语言是人类最重要的交流工具，人们通过它来表达思想。"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "too short"),
        ("字" * 200, None),
        ("字" * 199, "too short"),
        (("字" * 10 + "\n\n") * 30, None),  # blank lines do not count
        (("字" * 10 + "\n") * 30 + "字" * 9, "lines too short"),
        ("字" * 60 + "a" * 140 + " " * 500, None),
        ("字" * 59 + "a" * 140 + " " * 500, "too little Chinese"),
        ("の" * 200, "too little Chinese"),
        ("한" * 200, "too little Chinese"),
        ("\U00020000" * 100 + "㐀" * 99 + "〇", None),
        (SENTENCE * 10, None),
    ],
)
def test_thresholds(text: str, expected: str | None):
    assert reason(text) == expected


def test_other_limits():
    assert reason(SENTENCE, ChineseRules(min_characters=len(SENTENCE))) is None
    with pytest.raises(InputError, match="min_han_fraction 2: a fraction"):
        ChineseRules(min_han_fraction=2)
