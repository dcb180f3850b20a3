"""Tokenizers: every kind gives text back as it was, and no text forges a control token."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

from trivium.data_pipeline.documents import Document
from trivium.data_pipeline.errors import InputError
from trivium.data_pipeline.tokenizer import END_OF_TEXT, TextStream, Tokenizer, load_tokenizer
from trivium.data_pipeline.tokenizer_training import (
    KINDS,
    sample_texts,
    save_tokenizer,
    train_tokenizer,
)

SHARED = Path(__file__).parents[3] / "shared" / "data" / "tokenizers"

HARD = [
    "",
    " ",
    "\n\n\t  indented\r\n",
    "  two leading, two trailing  ",
    "naïve Ünïcödé: 中文、日本語, العربية, ไทย, हिन्दी",
    "emoji 👩‍👩‍👧‍👦 and a flag 🇨🇭",
    "numbers 1234567890 and 0.1e-7",
    "def f(x):\n    return x**2  # squared\n",
    "\x00\x01\x7f control characters",
    f"spelled out: {END_OF_TEXT} </s> <s> <unk>",
    "e\u0301 is not \u00e9, and \ufb01 is not fi",
]


def documents() -> Iterator[Document]:
    for i in range(300):
        text = f"Document {i} says: the quick brown fox jumps over dog number {i * i}.\n"
        yield Document(text * 2 + HARD[i % len(HARD)], "test", str(i))


@pytest.fixture(scope="module", params=KINDS)
def trained(request: pytest.FixtureRequest) -> Tokenizer:
    return train_tokenizer(request.param, documents(), 600)


def test_round_trip(trained):
    for text in HARD:
        ids = trained.encode(text)
        assert trained.decode(ids) == text
        assert trained.eod_id not in ids
        assert all(0 <= i < trained.vocab_size for i in ids)
    assert trained.encode_batch(HARD) == [trained.encode(text) for text in HARD]
    assert trained.vocab_size <= 600
    assert trained.token_id(END_OF_TEXT) == trained.eod_id
    assert trained.token_id("<|not there|>") is None


def test_saved_loaded_and_pickled_it_is_the_same(trained, tmp_path):
    save_tokenizer(trained, tmp_path)
    loaded = load_tokenizer(tmp_path)
    file = next(iter(trained.files()))
    for other in (loaded, load_tokenizer(tmp_path / file), pickle.loads(pickle.dumps(trained))):
        assert other.fingerprint == trained.fingerprint
        assert other.vocab_size == trained.vocab_size
        assert other.encode_batch(HARD) == trained.encode_batch(HARD)
    save_tokenizer(loaded, tmp_path / "again")
    assert load_tokenizer(tmp_path / "again").fingerprint == trained.fingerprint


def test_training_twice_gives_the_same_file():
    for kind in ("bpe", "sentencepiece-bpe"):
        one, two = (train_tokenizer(kind, documents(), 500) for _ in range(2))
        assert one.files() == two.files()


def test_text_as_it_is_generated(trained):
    text = "naïve 中文 👩‍👩‍👧‍👦 of the quick brown fox " + HARD[4]
    stream = TextStream(trained)
    pieces = [stream.push(i) for i in trained.encode(text)]
    pieces.append(stream.flush())
    assert "".join(pieces) == text
    assert len([piece for piece in pieces if piece]) > 5
    assert not any("\ufffd" in piece for piece in pieces)


def test_ids_past_the_vocabulary_are_left_out(trained):
    ids = trained.encode("the quick brown fox")
    assert trained.decode([*ids, trained.vocab_size, trained.vocab_size + 99]) == (
        "the quick brown fox"
    )


def test_eod_from_the_configuration_beside_it(tmp_path):
    save_tokenizer(train_tokenizer("bpe", documents(), 400), tmp_path)
    before = load_tokenizer(tmp_path)
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({"eos_token": {"content": "!"}}))
    after = load_tokenizer(tmp_path)
    assert after.eod_id == after.token_id("!") != before.eod_id
    assert after.fingerprint != before.fingerprint
    config.write_text('{"eos_token": "<|nothing|>"}')
    with pytest.raises(InputError, match=r"'<\|nothing\|>' is not in the vocabulary"):
        _ = load_tokenizer(tmp_path).eod_id
    config.write_text("{")
    with pytest.raises(InputError, match=r"tokenizer_config\.json: cannot be read as JSON"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("tokenizer.json", b'{"version": "1.0"', "not a tokenizer.json"),
        ("tokenizer.model", b"\x00junk", "not a SentencePiece model"),
        ("tokenizer.txt", b"", r"a tokenizer is a \.json or a \.model file"),
    ],
)
def test_files_that_are_no_tokenizer(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=says):
        _ = load_tokenizer(tmp_path / name).vocab_size


def test_places_without_a_tokenizer(tmp_path):
    with pytest.raises(InputError, match=r"no tokenizer\.json and no \.model in this folder"):
        load_tokenizer(tmp_path)
    with pytest.raises(InputError, match="no such tokenizer"):
        load_tokenizer(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("kind", "vocab_size", "texts", "says"),
    [
        ("wordpiece", 500, ["x"], "known kinds are bpe, sentencepiece-bpe, sentencepiece-unigram"),
        ("bpe", 100, ["x"], "at least 300"),
        ("bpe", 500, [], "hold no text"),
    ],
)
def test_training_that_cannot_be(kind, vocab_size, texts, says):
    with pytest.raises(InputError, match=says):
        train_tokenizer(kind, [Document(text, "", "") for text in texts], vocab_size)


def test_the_sample_is_bounded_spread_and_repeatable():
    many = [Document(f"{i:09d} ", "", "") for i in range(10_000)]
    sample = sample_texts(many, 10_000, seed=1)
    assert sample == sample_texts(many, 10_000, seed=1) != sample_texts(many, 10_000, seed=2)
    assert sum(map(len, sample)) <= 10_000
    places = [int(text) for text in sample]
    assert places == sorted(places)
    assert 900 < len(places) <= 1000
    assert 4000 < sum(places) / len(places) < 6000
    assert sample_texts([Document("é" * 50, "", "")], 11, 0) == ["é" * 5]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("dolma2_tokenizer.json", "".join(HARD)),
        ("sentencepiece_test.model", "The quick brown fox"),  # has no bytes for what it lacks
    ],
)
def test_other_peoples_tokenizers(name, text, tmp_path):
    if not (SHARED / name).is_file():
        pytest.skip(f"{SHARED / name} is not there")
    tokenizer = load_tokenizer(SHARED / name)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert max(ids) < tokenizer.vocab_size
    assert 0 <= tokenizer.eod_id < tokenizer.vocab_size
    save_tokenizer(tokenizer, tmp_path)  # as a folder of the Hugging Face kind
    assert load_tokenizer(tmp_path).encode(text) == ids
    assert load_tokenizer(tmp_path).eod_id == tokenizer.eod_id
