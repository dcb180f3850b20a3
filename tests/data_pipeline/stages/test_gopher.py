"""Gopher's rules at their thresholds, one step past them, and on scripts without spaces."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest

from trivium.data_pipeline.errors import InputError
from trivium.data_pipeline.stages.gopher import GopherQuality, GopherRepetition
from trivium.data_pipeline.stages.repetition import (
    most_frequent_above,
    most_frequent_ngrams,
    repeated_above,
    repeated_ngrams,
)
from trivium.data_pipeline.stages.stage import batch
from trivium.data_pipeline.stages.words import Splitting, analyse

CHINESE = (
    "语言是人类最重要的交流工具，人们通过它来表达思想和感情。研究者认为，汉字的历史已经超过三千年，"
    "今天仍有十多亿人使用。尽管各地方言差别很大，书面文字却让不同地方的读者能够互相理解。"
)
THAI = (
    "ภาษาไทยเป็นภาษาที่มีระดับเสียงของคำแน่นอนหรือวรรณยุกต์เช่นเดียวกับภาษาจีน "
    "และออกเสียงแยกคำต่อคำ เป็นภาษาราชการของประเทศไทยและภาษาแม่ของชาวไทย"
)


def quality(text: str, rules: GopherQuality | None = None) -> str | None:
    return (rules or GopherQuality())(batch([text])).reasons.to_pylist()[0]


def repetition(text: str, rules: GopherRepetition | None = None) -> str | None:
    return (rules or GopherRepetition())(batch([text])).reasons.to_pylist()[0]


def plain(count: int) -> list[str]:
    """`count` different words of five letters, two of them stop words."""
    return ["the", "with", *(f"w{chr(97 + n // 26)}{chr(97 + n % 26)}xy" for n in range(count - 2))]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (plain(50), None),
        (plain(49), "too few words"),
        ([*plain(49), "--"], "too few words"),
        ([*plain(50), *["word"] * 99_950], None),
        ([*plain(50), *["word"] * 99_951], "too many words"),
        (["the"] * 49 + ["and"], None),  # mean length exactly 3
        (["the"] * 48 + ["and", "of"], "words too short"),
        (["the", "that", *["k" * 10] * 46, "k" * 16, "k" * 17], None),  # exactly 10
        (["the", "that", *["k" * 10] * 46, "k" * 17, "k" * 17], "words too long"),
        ([*plain(50), "#", "#", "#", "#", "#"], None),
        ([f"#{word}" if n < 5 else word for n, word in enumerate(plain(50))], None),
        ([f"#{word}" if n < 6 else word for n, word in enumerate(plain(50))], "too many hashes"),
        ([f"{word}..." if n < 5 else word for n, word in enumerate(plain(50))], None),
        ([f"{word}…" if n < 6 else word for n, word in enumerate(plain(50))], "too many ellipses"),
        ([*plain(40), *["12345"] * 10], None),
        ([*plain(39), *["12345"] * 11], "too few words with a letter"),
        ([*plain(50)[1:], "word"], "too few stop words"),
    ],
)
@pytest.mark.parametrize("splitting", get_args(Splitting))
def test_quality_by_words(words: list[str], reason: str | None, splitting: Splitting):
    assert quality(" ".join(words), GopherQuality(words=splitting)) == reason


def test_stop_words_among_tokens_are_as_written_and_among_words_in_either_case():
    text = " ".join([*plain(50)[2:], "The,", '"With'])
    assert quality(text) == "too few stop words"
    assert quality(text.lower()) is None
    assert quality(text, GopherQuality(words="whitespace")) is None


def test_punctuation_is_a_word_only_among_tokens():
    text = " ".join([*plain(40), "be,", *["1,"] * 10])
    assert quality(text, GopherQuality(words="whitespace")) is None
    assert quality(text) == "too few words with a letter"


@pytest.mark.parametrize(
    ("head", "tail", "marked", "reason"),
    [
        ("- ", "", 9, None),
        ("• ", "", 10, "too many bullet lines"),
        ("", "...", 3, None),
        ("", " …  ", 4, "too many lines end in an ellipsis"),
    ],
)
def test_quality_by_lines(head: str, tail: str, marked: int, reason: str | None):
    words = plain(100)
    lines = [" ".join(words[n : n + 10]) for n in range(0, 100, 10)]
    text = "\n".join(f"{head}{line}{tail}" if n < marked else line for n, line in enumerate(lines))
    assert quality(text) == reason


@pytest.mark.parametrize("text", [CHINESE, THAI])
def test_rules_on_the_shape_of_words_leave_scripts_without_spaces(text: str):
    assert quality(text) is None
    assert repetition(text) is None
    assert quality(text[:20]) == "too few words"
    assert repetition("\n".join([text] * 3)) is not None


def test_documents_without_words():
    assert quality("") == quality("\0") == quality(" \n ") == "too few words"
    assert repetition("") == "empty"
    assert repetition(" ") is repetition(" \n \t\n") is None
    assert repetition(" \n\n ") == "too many repeated lines"
    assert len(GopherQuality()(batch([])).reasons) == 0
    assert len(GopherRepetition()(batch([])).reasons) == 0


LOOSE = {"top_ngrams": {}, "repeated_ngrams": {}}


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([*"abcdefg", "a", "b", "c"], None),  # 3 of 10 lines
        ([*"abcdef", "a", "b", "c", "d"], "too many repeated lines"),
        (["a" * 20, "a" * 20, "b" * 58], None),  # 20 of 100 characters, with the newlines
        (["a" * 20, "a" * 20, "b" * 57], "too much text in repeated lines"),
        (["a", *[""] * 9, "b"], None),  # empty lines are none, lines of spaces are
        ([*"abcdef", *[" "] * 4], None),
        ([*"abcdef", *[" "] * 5], "too many repeated lines"),
        (["", *"ab", ""], None),  # except for the outer ones
        (["", "a", ""], "too many repeated lines"),
    ],
)
def test_repeated_lines(lines: list[str], reason: str | None):
    limits = {"max_paragraph_fraction": 1.0, "max_paragraph_character_fraction": 1.0}
    characters = 0.2 if "a" * 20 in lines else 1.0
    share = 1.0 if characters < 1 else 0.3
    rules = GopherRepetition(
        **limits, **LOOSE, max_line_character_fraction=characters, max_line_fraction=share
    )
    assert repetition("\n".join(lines), rules) == reason


@pytest.mark.parametrize(
    ("paragraphs", "reason"),
    [
        ([*"abcdefg", "a", "b", "c"], None),
        ([*"abcdef", "a", "b", "c", "d"], "too many repeated paragraphs"),
        (["a\nb", "a", "b"], None),
        ([*"abcdef", "a\n \na", "a\n \na"], None),
        (["", *"abcdef", "a", "b", "c", "", ""], "too many repeated paragraphs"),
        (["a\nb" * 9, "c" * 200, "d", "e", "a\nb" * 9], None),
        (["a\nb" * 19, "c" * 100, "d", "e", "a\nb" * 19], "too much text in repeated paragraphs"),
    ],
)
def test_repeated_paragraphs(paragraphs: list[str], reason: str | None):
    rules = GopherRepetition(**LOOSE, max_line_fraction=1.0, max_line_character_fraction=1.0)
    assert repetition("\n\n".join(paragraphs), rules) == reason


def spread(pattern: str, times: int, size: int) -> str:
    """`pattern` with different words between its occurrences, `size` characters in all."""
    text = " ".join(f"{pattern} x{n}y{n}z" for n in range(times))
    filler = "".join(chr(0x100 + n) + " " for n in range(size))
    return f"{text} {filler}"[: size - 1] + "."


@pytest.mark.parametrize(("n", "fraction"), [(2, 0.20), (3, 0.18), (4, 0.16)])
def test_top_ngrams_at_their_threshold(n: int, fraction: float):
    pattern = " ".join(f"pat{k}ern" for k in range(n))  # 8 n - 1 characters, 5 times
    size = round(5 * len(pattern) / fraction)
    rules = GopherRepetition(top_ngrams={n: fraction}, repeated_ngrams={})
    exact = 5 * len(pattern) / size
    for characters, dropped in ((size + 1, False), (size - 1, True)):
        text = spread(pattern, 5, characters)
        assert len(text) == characters
        expected = f"too much text in one {n}-gram" if dropped else None
        assert repetition(text, rules) == expected, (characters, exact)


@pytest.mark.parametrize(
    ("n", "fraction"), [(5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10)]
)
def test_repeated_ngrams_at_their_threshold(n: int, fraction: float):
    pattern = " ".join(f"pat{k}ern" for k in range(n))  # 7 n characters without spaces
    repeated = 4 * 7 * n  # of five occurrences the first is not repeated
    size = round(repeated / fraction)
    rules = GopherRepetition(top_ngrams={}, repeated_ngrams={n: fraction})
    for characters, dropped in ((size + 1, False), (size - 1, True)):
        text = spread(pattern, 5, characters)
        expected = f"too much text in repeated {n}-grams" if dropped else None
        assert repetition(text, rules) == expected


def test_an_ngram_that_occurs_once_counts_only_where_it_has_spaces():
    assert repetition("two words") == "too much text in one 2-gram"
    assert repetition("兩字") is None
    assert repetition("欲出未出光辣達，千山萬山如火發。") is None


def test_limits_that_settle_most_documents_hide_nothing():
    random_numbers = random.Random(2)
    texts = [
        " ".join(
            random_numbers.choice(["a", "bb", "ccc", "dd-d", "中文", "中", f"x{n}"][: 2 + size % 6])
            for n in range(random_numbers.randrange(1, 80))
        )
        for size in range(600)
    ]
    analysis = analyse(batch(texts))
    for words in (analysis.words, analysis.tokens):
        for limits, above, counts in (
            ({2: 0.2, 3: 0.18, 4: 0.16}, most_frequent_above, most_frequent_ngrams),
            ({5: 0.15, 7: 0.13, 10: 0.1}, repeated_above, repeated_ngrams),
        ):
            limit = np.array([*limits.values()]) * analysis.characters[:, None]
            all_of_them = counts(words, tuple(limits))
            settled = above(words, limits, analysis.characters)
            assert ((settled > limit) == (all_of_them > limit)).all()
            assert 0 < (settled == 0).all(1).sum() < len(texts)


def test_very_long_lines_and_words():
    assert quality("x" * 1_000_000) == "too few words"
    assert repetition("x" * 1_000_000) is None
    assert repetition("ab " * 300_000) == "too much text in one 2-gram"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GopherQuality(min_words=-1), "min_words -1: 0 or more"),
        (lambda: GopherQuality(max_words=10), "min_words 50 is above max_words 10"),
        (lambda: GopherQuality(max_bullet_fraction=1.1), "max_bullet_fraction 1.1: a fraction"),
        (lambda: GopherQuality(min_stop_words=9), "min_stop_words 9: at most the 8"),
        (lambda: GopherQuality(stop_words=("a b", "c")), "each has to be one word"),
        (lambda: GopherQuality(stop_words=("be", "can't")), "each has to be one word"),
        (lambda: GopherRepetition(top_ngrams={0: 0.1}), "top_ngrams 0: 0.1"),
        (lambda: GopherRepetition(repeated_ngrams={5: 2.0}), "repeated_ngrams 5: 2.0"),
    ],
)
def test_impossible_limits_are_refused(make: Callable[[], object], message: str):
    with pytest.raises(InputError) as error:
        make()
    assert message in str(error.value)
