"""C4's rules on lines and documents, at their thresholds and one step past."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from tests.data_pipeline.stages.quality_texts import FILES, mutated, real_texts
from trivium.data_pipeline.errors import InputError
from trivium.data_pipeline.stages.c4 import C4Rules
from trivium.data_pipeline.stages.stage import batch

CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]", re.ASCII)
FIVE = "It is one. It is two! Is it three? It is four. It is five."


def judge(text: str, rules: C4Rules | None = None) -> tuple[str, str | None]:
    verdict = (rules or C4Rules())(batch([text]))
    assert verdict.documents.schema == batch([text]).schema
    kept = verdict.documents.column("text").to_pylist()[0]
    assert verdict.changed == (kept != text)
    return kept, verdict.reasons.to_pylist()[0]


@pytest.mark.parametrize(
    ("line", "stays"),
    [
        ("Three words here.", True),
        ("Two words.", False),
        ("Three words here", False),
        ("Three words here...", False),
        ("Three words here..", True),
        ('They said "three words here"', True),
        ("这是一句话。", True),
        ("ภาษาไทยเป็นภาษา", True),
        ("他说：“这是一句话。”", True),
        ("“Three curly quotes.”", False),  # neither in the paper nor in its code
        ("Three words here…", False),
        ("Three words he said", False),
        ("x" * 1000 + " is long.", True),
        ("x" * 1001 + " is long.", False),
        ("Please enable JavaScript to read.", False),
        ("See our Privacy Policy for more.", False),
        ("This site USES COOKIES for you.", False),
        ("A null \0 is nothing.", True),
        ("", False),
    ],
)
def test_which_lines_stay(line: str, stays: bool):
    assert judge(f"{FIVE}\n  {line}\t\n{FIVE}") == (
        "\n".join([FIVE, line, FIVE] if stays else [FIVE, FIVE]),
        None,
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (FIVE, None),
        (FIVE.removesuffix(" It is five."), "too few sentences"),
        ("Version 1.2.3 of a.b.c is here. " * 4, "too few sentences"),
        ("It is one. It is two... It is three?! It is four. ... It is five.", "too few sentences"),
        ("Mr. A. saw the U.S. in 1.5 p.m. hours. " * 4, "too few sentences"),
        ('"It is one." (It is two.) It is three. It is four. It is five.', None),
        ("这是一句话。那是两句话！他说什么？我不知道。你也不知道。", None),
        ("这是一句话。那是两句话！他说什么？我不知道。", "too few sentences"),
        ("", "too few sentences"),
        (f"{FIVE}\nLorem Ipsum dolor sit amet.", "lorem ipsum"),
        (f"{FIVE}\nThe set {{x}} is one.", "curly bracket"),
        (f"{FIVE}\nThe set {{x}} is not a sentence", None),
    ],
)
def test_which_documents_stay(text: str, reason: str | None):
    assert judge(text)[1] == reason


def test_sentences_by_marks():
    text = "It is one. It is two... It is three?! It is four. ... It is five."
    assert judge(text, C4Rules(sentences="whitespace"))[1] is None
    assert judge("Mr. A. is here. " * 2, C4Rules(sentences="whitespace"))[1] is None


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("It is so.[1][23] It is.[edit][]", "It is so. It is."),
        ("It is [citation needed] so.", "It is  so."),
        ("A [1a] and a [2 stay.", "A [1a] and a [2 stay."),
        ("It is so", None),
        ("It is so [1]", None),
    ],
)
def test_citations_go(line: str, kept: str | None):
    expected = "\n".join([FIVE, *([kept] if kept else []), FIVE])
    assert judge(f"{FIVE}\n{line}\n{FIVE}")[0] == expected
    as_it_was = judge(f"{FIVE}\n{line}.\n{FIVE}", C4Rules(remove_citations=False))[0]
    assert as_it_was == f"{FIVE}\n{line}.\n{FIVE}"


def test_lines_without_a_mark_may_stay():
    rules = C4Rules(require_terminal_mark=False)
    assert judge(f"{FIVE}\nThree words here\nTwo words", rules) == (
        f"{FIVE}\nThree words here",
        None,
    )
    assert judge("\n".join(["Three words here"] * 5), rules)[1] is None
    assert judge("\n".join(["Three words here"] * 4), rules)[1] == "too few sentences"


def test_bad_words_come_from_a_file(tmp_path: Path):
    path = tmp_path / "bad.txt"
    path.write_text("# a list\n\nugly\nvery rude\n")
    rules = C4Rules(bad_words=str(path))
    assert judge(FIVE, rules)[1] is None
    assert judge(f"{FIVE} That is Ugly, they say.", rules)[1] == "bad words"
    assert judge(f"{FIVE} That is VERY rude!", rules)[1] == "bad words"
    assert judge(f"{FIVE} That is rude, very.", rules)[1] is None


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"min_sentences": -1}, "min_sentences -1: 0 or more"),
        ({"policies": ("Upper",)}, "policies 'Upper': lower-case ASCII"),
        ({"policies": ("x",) * 61}, "61 of them, 60 at most"),
        ({"bad_words": "no such file"}, "no such file: cannot be read"),
    ],
)
def test_impossible_settings_are_refused(limits: dict[str, object], message: str):
    with pytest.raises(InputError) as error:
        C4Rules(**limits)  # type: ignore[arg-type]
    assert message in str(error.value)


@pytest.mark.parametrize("name", FILES)
def test_mutated_real_texts_keep_whole_lines_in_order(name: str):
    random_numbers = random.Random(13)
    texts = [mutated(text, random_numbers) for text in real_texts(name, 80)]
    verdict = C4Rules()(batch(texts))
    for text, kept in zip(texts, verdict.documents.column("text").to_pylist(), strict=True):
        stripped = (line.strip() for line in text.split("\n"))
        lines = iter([CITATION.sub("", line) for line in stripped])
        assert all(line in lines for line in kept.split("\n") if line)
