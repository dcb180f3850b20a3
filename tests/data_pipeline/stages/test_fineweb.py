"""FineWeb's rules at their thresholds and one step past."""

from __future__ import annotations

from typing import get_args

import pytest

from trivium.data_pipeline.errors import InputError
from trivium.data_pipeline.stages.fineweb import FineWebRules
from trivium.data_pipeline.stages.stage import batch
from trivium.data_pipeline.stages.words import Splitting, analyse


def reason(text: str, rules: FineWebRules | None = None) -> str | None:
    return (rules or FineWebRules())(batch([text])).reasons.to_pylist()[0]


def lines(count: int, ended: int = 0, short: int = 0) -> str:
    """`count` different lines; `ended` with a full stop, `short` of 30 characters, others of 31."""
    rows = []
    for n in range(count):
        size = 30 if n < short else 31
        rows.append(f"{n:04d} a b c d e f g ".ljust(size - 1, "x") + ("." if n < ended else "x"))
    return "\n".join(rows)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "empty"),
        (" \n\t\n", "empty"),
        (lines(25, ended=3), None),  # 0.12
        (lines(25, ended=2), "too few lines end a sentence"),
        (lines(100, ended=50, short=67), None),
        (lines(100, ended=50, short=68), "too many short lines"),
    ],
)
def test_thresholds_of_lines(text: str, expected: str | None):
    assert reason(text) == expected


@pytest.mark.parametrize(("size", "expected"), [(9900, None), (9899, "too much text")])
def test_repeated_text_does_not_count_newlines(size: int, expected: str | None):
    line = "b " * 49 + "b."  # 100 characters, twice, of 100 * 2 + (size - 100)
    text = f"{line}\n\n\n{'c ' * ((size - 100) // 2)}{'c' * (size % 2)}\n{line}"
    assert len(text.replace("\n", "")) == size + 100
    found = reason(text)
    assert found == (expected and f"{expected} in repeated lines")


@pytest.mark.parametrize(("newlines", "expected"), [(30, None), (31, "too many newlines")])
def test_newlines_per_word(newlines: int, expected: str | None):
    words = " ".join(f"w{n:03d}" for n in range(100)) + "."
    assert reason(words + "\n" * newlines) == expected


@pytest.mark.parametrize("separator", [" ", ", ", "\u3000", " é\xa0", "中"])
def test_words_are_counted_as_far_as_the_rule_needs(separator: str):
    for count in range(2, 30):
        text = separator.join(f"w{n:03d}" for n in range(count)) + "." + "\n" * 5
        for splitting in get_args(Splitting):
            words = int(analyse(batch([text])).split(splitting).counts[0])
            expected = "too many newlines" if 5 / words > 0.3 else None
            assert reason(text, FineWebRules(words=splitting, short_line=0)) == expected


@pytest.mark.parametrize(("tail", "ends"), [("", True), ("\r", True), (" ", False), ("\r ", False)])
def test_a_mark_with_spaces_behind_it_ends_no_line(tail: str, ends: bool):
    text = "\n".join(f"{n} is a line of more than thirty characters.{tail}" for n in range(3))
    assert reason(text) == (None if ends else "too few lines end a sentence")


@pytest.mark.parametrize(
    "line",
    [
        "语言是人类最重要的交流工具，人们通过它来表达思想和感情，研究者认为汉字的历史已经很长。",
        "ภาษาไทยเป็นภาษาที่มีระดับเสียงของคำแน่นอนหรือวรรณยุกต์",
        "ພາສາລາວເປັນພາສາທາງການຂອງສາທາລະນະລັດປະຊາທິປະໄຕປະຊາຊົນລາວ",
        "ភាសាខ្មែរគឺជាភាសាផ្លូវការរបស់ព្រះរាជាណាចក្រកម្ពុជា។",
        "हिन्दी भारत की एक प्रमुख भाषा है और यह देश के कई राज्यों में है।",
        "A line with its carriage return is ended as well.\r",
    ],
)
def test_ends_of_sentences_by_script(line: str):
    assert reason(line) is None


def test_impossible_limits_are_refused():
    with pytest.raises(InputError, match="short_line -1: 0 or more"):
        FineWebRules(short_line=-1)
