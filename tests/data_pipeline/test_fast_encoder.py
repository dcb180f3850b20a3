"""Fast encoders: the tokenizer's own ids on every text, or they are not used."""

from __future__ import annotations

import logging
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")

from tests.data_pipeline.test_tokenizer import documents
from trivium.data_pipeline import fast_encoder, word_encoder
from trivium.data_pipeline.errors import InputError
from trivium.data_pipeline.fast_encoder import Choice, as_buffer, choose, first_difference
from trivium.data_pipeline.hard_texts import hard_texts
from trivium.data_pipeline.tokenizer import JsonTokenizer, Tokenizer, load_tokenizer
from trivium.data_pipeline.tokenizer_training import train_tokenizer
from trivium.data_pipeline.word_encoder import WordEncoder

SHARED = Path(__file__).parents[3] / "shared" / "data"
PATTERNS = {
    "gpt2": None,
    "gpt4": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "o200k": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    return train_tokenizer("bpe", documents(), 900)


def without(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    """As if these were not installed."""
    for name in [*packages, *(f"{name}.gigatoken_rs" for name in packages)]:
        monkeypatch.setitem(sys.modules, name, None)


def trained(pattern: str | None, **changed: Any) -> JsonTokenizer:
    """A byte-level BPE that splits text by ``pattern``, or as GPT-2 does."""
    from tokenizers import AddedToken, Regex, models, pre_tokenizers, trainers
    from tokenizers import Tokenizer as Model

    model = Model(models.BPE())
    if pattern is None:
        model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        model.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    texts = [document.text for document in documents()] + hard_texts() * 3
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    model.train_from_iterator(texts, trainer)
    model.add_tokens([AddedToken(text, normalized=False) for text in changed.get("added", [])])
    return JsonTokenizer(model.to_str().encode(), "trained", {})


def mixed(number: int, seed: int = 1) -> list[str]:
    """Sentences of words in several scripts, with punctuation and white space of all kinds."""
    chance = random.Random(seed)
    words = [
        "the",
        "fox",
        "it's",
        "42",
        "naïve",
        "слово",
        "中文",
        "x_1",
        "e.g.",
        "<a>",
        "ไทย",
        "don't",
    ]
    gaps = [" ", " ", " ", "\n", ", ", ".\n", "  ", "\t", " - ", "\n\n    ", "\u00a0", "’s ", " \n"]
    return [
        "".join(chance.choice(words) + chance.choice(gaps) for _ in range(chance.randrange(60)))
        for _ in range(number)
    ]  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_table_of_words_gives_the_ids_of_the_usual_patterns(pattern):
    tokenizer = trained(PATTERNS[pattern], added=["<|extra_id_0|>", "||x_Y||"])
    texts = [*mixed(300), "a<|extra_id_0|>b ||x_Y|| c||x_Y||", *tokenizer.token_texts()]
    expected = tokenizer.encode_batch(texts)
    for choice in (Choice("words", fine=True), Choice("words")):
        assert first_difference(choice.build(tokenizer), texts, expected) is None


def test_a_full_table_starts_over(bpe, monkeypatch):
    for name, value in (("_WORDS", 64), ("_SLOTS", 256), ("_LETTERS", 400), ("_ROOM", 8)):
        monkeypatch.setattr(word_encoder, name, value)
    asked: list[int] = []

    def encode(texts: Any) -> list[list[int]]:
        asked.append(len(texts))
        return bpe.encode_batch(texts)

    words = WordEncoder(encode, fine=True)
    for seed in range(20):
        texts = [f"{w}{seed} " * 3 for w in ("alpha", "beta", "gamma")] + mixed(10, seed)
        data, starts, ends = as_buffer(texts)
        ids, lengths = words(data, starts, ends)
        expected = bpe.encode_batch(texts)
        assert lengths.tolist() == [len(one) for one in expected]
        assert ids.tolist() == [i for one in expected for i in one]
    assert len(asked) == 20


def test_a_word_is_encoded_once(bpe):
    asked: list[str] = []

    def encode(texts: Any) -> list[list[int]]:
        asked.extend(texts)
        return bpe.encode_batch(texts)

    words = WordEncoder(encode, fine=True)
    for _ in range(3):
        words(*as_buffer(["one two, two\ntwo one", "two one " * 9]))
    assert sorted(asked) == sorted({"one", " two", ",", "\n", "two", " one", " "})


def test_after_an_error_the_table_is_whole(bpe):
    broken = True

    def encode(texts: Any) -> list[list[int]]:
        if broken:
            raise ValueError("no")
        return bpe.encode_batch(texts)

    words = WordEncoder(encode, fine=True)
    with pytest.raises(ValueError, match="no"):
        words(*as_buffer(["one two"]))
    broken = False
    assert words(*as_buffer(["one two"]))[0].tolist() == bpe.encode("one two")


def test_a_tokenizer_that_joins_words_is_found_out():
    from tokenizers import Tokenizer as Model
    from tokenizers import models, trainers

    model = Model(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=1500, special_tokens=["<|endoftext|>"], show_progress=False
    )
    model.train_from_iterator(["the fox, the fox. " * 50, *hard_texts()], trainer)
    tokenizer = JsonTokenizer(model.to_str().encode(), "joins", {})
    assert any(" " in text.strip() for text in tokenizer.token_texts())
    texts = hard_texts(tokenizer.token_texts())
    expected = tokenizer.encode_batch(texts)
    for choice in (Choice("words", fine=True), Choice("words"), Choice("words", drop_space=True)):
        assert first_difference(choice.build(tokenizer), texts, expected) is not None


def test_a_space_of_its_own_before_every_text(monkeypatch):
    """As Llama 2's tokenizer.json: no pattern, a mark prepended and one for each space."""
    from tokenizers import Tokenizer as Model
    from tokenizers import models, normalizers, pre_tokenizers, trainers

    model = Model(models.BPE(byte_fallback=True))
    model.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=["</s>", *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
    )
    model.train_from_iterator([d.text for d in documents()], trainer)
    model.pre_tokenizer = None
    model.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer = JsonTokenizer(model.to_str().encode(), "llama", {})
    without(monkeypatch, "gigatoken")
    choice, engine = choose(tokenizer, "on", ["the quick brown fox"])
    assert choice.drop_space
    texts = [" two", "  two  three ", "one two", *(d.text for d in documents())]
    assert first_difference(engine, texts, tokenizer.encode_batch(texts)) is None


@pytest.mark.parametrize("kind", ["bpe", "sentencepiece-bpe"])
def test_gigatoken_or_the_table_is_chosen_for_what_we_train(kind, caplog):
    caplog.set_level(logging.INFO)
    tokenizer = train_tokenizer(kind, documents(), 600)
    choice, engine = choose(tokenizer, "on", mixed(20))
    assert choice.kind != "reference"
    texts = mixed(200, seed=7)
    assert first_difference(engine, texts, tokenizer.encode_batch(texts)) is None
    assert len(caplog.records) == 1
    assert str(choice) in caplog.text


def test_a_unigram_is_left_to_its_library(caplog, monkeypatch):
    without(monkeypatch, "gigatoken")
    tokenizer = train_tokenizer("sentencepiece-unigram", documents(), 600)
    choice, engine = choose(tokenizer, "auto")
    assert choice == Choice("reference")
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    texts = mixed(20)
    assert first_difference(engine, texts, tokenizer.encode_batch(texts)) is None
    with pytest.raises(InputError, match=r"no fast encoder.*set fast to auto or off"):
        choose(tokenizer, "on")


class Wrong:
    """An encoder that is right but for texts with "zebra" in them."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.reference = fast_encoder.Reference(tokenizer)

    def __call__(self, data: Any, starts: Any, ends: Any) -> Any:
        ids, lengths = self.reference(data, starts, ends)
        if b"zebra" in data.tobytes():
            ids[-1] += 1
        return ids, lengths


def test_one_other_id_is_enough(bpe, caplog, monkeypatch):
    monkeypatch.setattr(fast_encoder, "_Gigatoken", Wrong)
    assert choose(bpe, "auto", ["a horse"])[0].kind == "gigatoken"
    monkeypatch.setattr(fast_encoder.metadata, "version", lambda _: "9")
    caplog.clear()
    assert choose(bpe, "auto", ["a zebra"])[0].kind == "words"
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    monkeypatch.setattr(fast_encoder, "_candidates", lambda _: [Choice("gigatoken")])
    assert choose(bpe, "auto", ["a zebra"])[0].kind == "reference"
    (record,) = caplog.records
    assert "gigatoken 9 differs on 'a zebra'" in record.message
    with pytest.raises(InputError, match="gigatoken 9 differs on 'a zebra'"):
        choose(bpe, "on", ["a zebra"])


def test_off_and_what_there_is_not(bpe):
    assert choose(bpe, "off")[0] == Choice("reference")
    with pytest.raises(InputError, match="fast 'fast': one of auto, off, on"):
        choose(bpe, "fast")  # type: ignore[arg-type]


def test_without_either_package(bpe, caplog, monkeypatch):
    caplog.set_level("INFO")  # what is not installed is no fault
    without(monkeypatch, "gigatoken", "numba")
    monkeypatch.delitem(sys.modules, "trivium.data_pipeline.word_encoder")
    assert choose(bpe, "auto")[0].kind == "reference"
    (record,) = caplog.records
    assert record.levelname == "INFO"
    assert "no fast encoder of this machine reads it" in record.message


def test_hard_texts_are_the_same_and_of_every_kind():
    texts = hard_texts(["x y", "z"])
    assert texts == hard_texts(["x y", "z"])
    assert {"", "xx yy", " x z y"} <= set(texts)
    characters = set("".join(texts))
    for character in "\x00\n\r\t\x7f\u00a0\u2028\u3000'’中ไ👍0٣▁":
        assert character in characters
    assert len("".join(texts).encode()) < 100_000


def test_gigatoken_on_a_published_tokenizer():
    pytest.importorskip("gigatoken")
    file = SHARED / "tokenizers" / "dolma2_tokenizer.json"
    if not file.is_file():
        pytest.skip(f"{file} is not there")
    tokenizer = load_tokenizer(file)
    choice, engine = choose(tokenizer, "on", mixed(50))
    assert choice.kind == "gigatoken"
    texts = [*mixed(300, seed=3), "<|endoftext|> is text"]
    expected = tokenizer.encode_batch(texts)
    assert first_difference(engine, texts, expected) is None
    ids, lengths = engine(*as_buffer([]))
    assert len(ids) == len(lengths) == 0
    assert np.issubdtype(ids.dtype, np.integer)
