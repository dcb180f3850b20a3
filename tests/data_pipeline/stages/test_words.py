"""Words, lines and counts of a batch, against Python's own on the same texts."""

from __future__ import annotations

import random
from itertools import pairwise

import pyarrow as pa
import pytest

from tests.data_pipeline.stages.quality_texts import FILES, mutated, real_texts
from trivium.data_pipeline.stages.characters import UNSPACED, character_table
from trivium.data_pipeline.stages.stage import Texts, batch
from trivium.data_pipeline.stages.words import (
    HAS_LETTER,
    IS_JOINED,
    IS_SYMBOL,
    IS_UNSPACED,
    Analysis,
    analyse,
    folded_hashes,
)


def words_of(text: str) -> list[str]:
    analysis = analyse(batch([text]))
    data = analysis.texts.data.tobytes()
    edges = [*analysis.words.start.tolist(), len(data)]
    spans = [data[a:b].decode() for a, b in pairwise(edges)]
    # what follows a word up to the next is white space
    assert [len(s.rstrip()) for s in spans] == analysis.words.characters.tolist()
    return [span.rstrip() for span in spans]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \n\t\u3000\xa0 ", []),
        ("don't stop, now", ["don't", "stop,", "now"]),
        ("a\0b \0", ["a\0b", "\0"]),
        ("中文，abc「你」。", ["中", "文，", "abc「", "你」。"]),
        ("「你好」", ["「你", "好」"]),
        ("用Python3写 2024年", ["用", "Python3", "写", "2024", "年"]),
        ("สวัสดี", ["ส", "วั", "ส", "ดี"]),
        ("ສະບາຍ", ["ສ", "ະ", "ບ", "າ", "ຍ"]),
        ("ខ្មែរ", ["ខ្", "មែ", "រ"]),
        ("မြန်မာ", ["မြ", "န်", "မာ"]),
        ("ひらカナ", ["ひ", "ら", "カ", "ナ"]),
        ("한국어 문장", ["한국어", "문장"]),
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),
    ],
)
def test_words_by_script(text: str, expected: list[str]):
    assert words_of(text) == expected


def test_kinds_of_words():
    kinds = analyse(batch(["ab -- 7 中文"])).words.kind.tolist()
    unspaced = HAS_LETTER | IS_UNSPACED
    assert kinds == [HAS_LETTER, IS_SYMBOL, 0, unspaced, unspaced | IS_JOINED]


def test_a_folded_word_forgets_case_and_punctuation_and_a_hash_does_not():
    words = analyse(batch(["The the, (THE) then"])).words
    the = folded_hashes(["the"])[0][0]
    assert (words.folded == the).tolist() == [True, True, True, False]
    assert len(set(words.hash.tolist())) == 4


def test_lines_and_counts():
    analysis = analyse(batch(["  a b \n\n \tc", "x\n", "", "\n", "a\r\n"]))
    lines = analysis.lines
    assert lines.of.tolist() == [0, 3, 4, 4, 5, 6]
    data = analysis.texts.data.tobytes()
    spans = zip(lines.start, lines.end, strict=True)
    assert [data[a:b] for a, b in spans] == [b"a b", b"", b"c", b"x", b"", b"a"]
    assert lines.characters.tolist() == [6, 0, 3, 1, 0, 2]
    assert analysis.characters.tolist() == [11, 2, 0, 1, 3]
    assert analysis.alphanumeric.tolist() == [3, 1, 0, 0, 1]
    assert analysis.spaces.tolist() == [8, 1, 0, 1, 2]
    assert len(analyse(batch([])).characters) == 0


def test_mostly_unspaced_is_more_than_half_of_the_words():
    given = ["", "one two", "one 中", "one 中文", "ไป a b"]
    assert analyse(batch(given)).mostly_unspaced().tolist() == [False, False, False, True, False]


def test_an_analysis_is_shared_by_the_stages_of_one_table_and_no_other():
    table = batch(["a b"])
    assert analyse(table) is analyse(table)
    assert analyse(table) is not analyse(batch(["a b"]))


def test_slices_and_chunks_are_analysed_as_their_rows():
    table = batch(["drop me", "中 two", "", "three\nlines"])
    parts = pa.concat_tables([table.slice(2), table.slice(1, 1)])
    assert analyse(parts).word_counts.tolist() == [0, 2, 2]
    assert analyse(table.slice(1, 2)).word_counts.tolist() == [2, 0]


def test_bytes_that_are_no_utf8_do_not_raise_nor_read_past_the_end():
    random_numbers = random.Random(3)
    for _ in range(300):
        raw = bytes(random_numbers.choice(b"ab \n\xe4\xb8\xad\xf0\xff\xc3") for _ in range(20))
        column = pa.array([raw], pa.large_binary()).view(pa.large_string())
        texts = Texts(pa.table({"text": column}))
        analysis = Analysis(texts)
        assert analysis.characters[0] <= len(raw)
        for words in (analysis.words, analysis.tokens):
            assert all(0 <= start < len(raw) for start in words.start)


@pytest.mark.parametrize("name", FILES)
def test_counts_of_real_and_mutated_texts_are_those_of_python(name: str):
    random_numbers = random.Random(7)
    texts = real_texts(name, 60)
    texts += [mutated(text, random_numbers) for text in texts[:40]]
    analysis = analyse(batch(texts))
    assert analysis.characters.tolist() == [len(text) for text in texts]
    assert analysis.spaces.tolist() == [sum(c.isspace() for c in text) for text in texts]
    newlines = [text.count("\n") + bool(text and text[-1] != "\n") for text in texts]
    assert (analysis.lines.of[1:] - analysis.lines.of[:-1]).tolist() == newlines
    classes = character_table().classes
    for text, count in zip(texts, analysis.word_counts, strict=True):
        if not any(ord(c) < len(classes) and classes[ord(c)] & UNSPACED for c in text):
            assert count == len(text.split())
