"""The tokenizer of English: cases by hand, spaCy's own rules, and spaCy on real texts."""

from __future__ import annotations

import random
import time

import pytest

from tests.data_pipeline.stages.quality_texts import mutated, real_texts
from trivium.data_pipeline.stages.stage import batch
from trivium.data_pipeline.stages.token_cases import special_cases
from trivium.data_pipeline.stages.tokens import (
    ENDS_SENTENCE,
    HAS_LETTER,
    IS_JOINED,
    IS_PUNCTUATION,
    IS_SYMBOL,
    IS_UNSPACED,
    tokenize_bytes,
)
from trivium.data_pipeline.stages.words import analyse, token_hashes


def tokens(text: str) -> list[str]:
    data = text.encode()
    starts, characters, _, _ = tokenize_bytes(data)
    return [
        data[start:].decode()[:size]
        for start, size in zip(starts.tolist(), characters.tolist(), strict=True)
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        (" \n\u3000\xa0 ", ""),
        ("plain words", "plain words"),
        ("A (short) sentence, isn't it?", "A ( short ) sentence , is n't it ?"),
        ("don’t cannot id well", "do n’t can not i d well"),
        ("Mr. Smith vs. the U.S. at 5pm.", "Mr. Smith vs. the U.S. at 5 pm ."),
        ("(e.g., this)...", "( e.g. , this ) ..."),
        ("10km 20% $5 US$7 +1 + 3-4 3*4", "10 km 20 % $ 5 US$ 7 +1 + 3 - 4 3 * 4"),
        ("well-known a--b x/y a=b 3/4", "well - known a -- b x / y a = b 3/4"),
        ("end.Next one,two 1,000 a.b", "end . Next one , two 1,000 a.b"),
        ("'quoted' James's dogs' rock'n'roll", "' quoted ' James 's dogs ' rock'n'roll"),
        ("see https://a.org/x?y=(z) or me@b.com.", "see https://a.org/x?y=(z ) or me@b.com ."),
        ("http://x:y ok.W a..b -", "http://x : y ok . W a .. b -"),
        ("def f(x[:3]): f( [:3])", "def f(x[:3 ] ): f ( [ :3 ] )"),
        ("fine :-) (^_^) <3", "fine :-) (^_^) <3"),
        ("Mr.Jones and/or-not", "Mr. Jones and/or - not"),
        ("café™ naïve—so", "café ™ naïve — so"),
        ("中文，abc「你」", "中 文， abc「 你」"),
        ("ไทย", "ไ ท ย"),
        ("x" * 700 + ".", "x" * 700 + " ."),
    ],
)
def test_tokens(text: str, expected: str):
    assert tokens(text) == expected.split()


def test_special_cases_are_their_pieces():
    cases = special_cases()
    assert all("".join(pieces) == word for word, pieces in cases.items())
    short = {word: pieces for word, pieces in cases.items() if len(word.encode()) <= 16}
    assert [word for word, pieces in short.items() if tokens(word) != list(pieces)] == []


def test_kinds():
    kinds = tokenize_bytes("ab -- . 7 $ • 中文。".encode())[3].tolist()
    symbol, unspaced = IS_SYMBOL | IS_PUNCTUATION, HAS_LETTER | IS_UNSPACED
    assert kinds == [
        HAS_LETTER,
        symbol,
        symbol | ENDS_SENTENCE,
        0,
        IS_SYMBOL,
        IS_PUNCTUATION,  # a bullet is a word to the published filters
        unspaced,
        unspaced | IS_JOINED | ENDS_SENTENCE,
    ]


def test_a_token_has_one_hash_wherever_it_stands():
    (alone,) = token_hashes(["word"])
    words = analyse(batch(["word, (word) word-word café", "word"])).tokens
    assert (words.hash == alone[0]).sum() == 5
    assert words.counts.tolist() == [9, 1]


@pytest.mark.parametrize("piece", ["(", "):", "a-", "a.b@", "U.", "'s", "x/y=", "中.", "é,"])
def test_hostile_text_takes_linear_time(piece: str):
    data = (piece * (200_000 // len(piece))).encode()
    tokenize_bytes(data[:1000])
    before = time.process_time()
    starts = tokenize_bytes(data)[0]
    assert time.process_time() - before < 1
    assert len(starts) <= len(data)


def test_the_rules_of_spacy():
    tokenizer = pytest.importorskip("spacy").blank("en").tokenizer
    rules = [rule for rule in tokenizer.rules if rule.strip()]
    other = [rule for rule in rules if tokens(rule) != [str(token) for token in tokenizer(rule)]]
    assert len(rules) > 1000
    assert len(other) < 0.02 * len(rules), other


@pytest.mark.parametrize("name", ["c4_sample.jsonl.gz", "python_peps_en.jsonl.gz"])
def test_tokens_of_real_texts_are_those_of_spacy(name: str):
    tokenizer = pytest.importorskip("spacy").blank("en").tokenizer
    random_numbers = random.Random(5)
    texts = [text[:4000] for text in real_texts(name, 60)]
    texts += [mutated(text[:1000], random_numbers) for text in texts]
    kinds = [tokenize_bytes(text.encode())[3] for text in texts]
    texts = [text for text, kind in zip(texts, kinds, strict=True) if not (kind & 4).any()]
    chunks = [chunk for text in texts for chunk in text.split()]
    other = [c for c in chunks if tokens(c) != [str(token) for token in tokenizer(c)]]
    assert len(chunks) > 10_000
    assert len(other) <= 0.0002 * len(chunks), other
