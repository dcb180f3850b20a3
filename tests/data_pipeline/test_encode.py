"""Encoder: the tokenizer's ids in the shard's dtype, for any batch and any length of document."""

from __future__ import annotations

import pickle
from itertools import pairwise

import numpy as np
import pytest

from tests.data_pipeline.test_tokenizer import HARD, documents
from trivium.data_pipeline import encode, long_documents
from trivium.data_pipeline.content import hash_documents
from trivium.data_pipeline.encode import Encoder
from trivium.data_pipeline.errors import InputError
from trivium.data_pipeline.fast_encoder import as_buffer
from trivium.data_pipeline.long_documents import pieces
from trivium.data_pipeline.tokenizer import Tokenizer
from trivium.data_pipeline.tokenizer_training import KINDS, train_tokenizer


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return train_tokenizer(request.param, documents(), 600)


@pytest.mark.parametrize("fast", ["auto", "off"])
@pytest.mark.parametrize("append_eod", [True, False])
def test_ids_lengths_and_hashes(tokenizer, fast, append_eod):
    texts = [*HARD, "the fox " * 50, "", *HARD]
    end = [tokenizer.eod_id] if append_eod else []
    expected = [tokenizer.encode(text) + end for text in texts if text]
    got = Encoder(tokenizer, append_eod, fast)(texts)
    assert got.tokens.dtype == np.uint16
    assert got.tokens.tolist() == [i for one in expected for i in one]
    assert got.lengths.dtype == np.int32
    assert got.lengths.tolist() == [len(one) for one in expected]
    assert got.empty == 3
    offsets = np.concatenate([[0], np.cumsum(got.lengths)])
    assert got.hashes.tolist() == hash_documents(got.tokens, offsets).tolist()


def test_a_batch_of_arrow_is_the_same(tokenizer):
    pytest.importorskip("pyarrow")
    from trivium.data_pipeline.stages.stage import Texts, batch

    encoder = Encoder(tokenizer)
    whole = batch(["left out", *HARD, "left out"])
    sliced = whole.slice(1, len(HARD))  # its offsets do not begin at 0
    for one, other in zip(encoder(Texts(sliced)), encoder(HARD), strict=True):
        assert np.array_equal(one, other)
    for nothing in (encoder([]), encoder(Texts(whole.slice(0, 0))), encoder(["", ""])):
        assert nothing.tokens.size == nothing.lengths.size == nothing.hashes.size == 0
        assert nothing.tokens.dtype == np.uint16


def test_pickled_it_keeps_what_it_settled(tokenizer):
    encoder = Encoder(tokenizer)
    settled = encoder.settle(HARD)
    before = encoder(HARD)
    copy = pickle.loads(pickle.dumps(encoder))
    copy.tokenizer = None  # nothing is tried again
    assert copy.settle() == settled
    copy.tokenizer = tokenizer
    assert np.array_equal(copy(HARD).tokens, before.tokens)
    assert str(Encoder(tokenizer, fast="off").settle()) == "its own library"


@pytest.mark.parametrize("fast", ["auto", "off"])
def test_a_long_document_in_pieces_gives_the_same_ids(tokenizer, fast, monkeypatch):
    texts = [
        " ".join(HARD[3:]) * 20,  # all scripts
        "one line of many words, without an end " * 200,
        "short",
        "中文没有空格只有很长的句子、" * 300,  # nothing to cut at but where tokens end
    ]
    expected = tokenizer.encode_batch(texts)
    asked: list[int] = []

    class Watched:
        def __getattr__(self, name: str) -> object:
            return getattr(tokenizer, name)

        def encode_batch(self, given: list[str]) -> list[list[int]]:
            asked.extend(len(text.encode()) for text in given)
            return tokenizer.encode_batch(given)

    encoder = Encoder(Watched() if fast == "off" else tokenizer, False, fast)  # type: ignore[arg-type]
    encoder.settle()
    monkeypatch.setattr(encode, "LONGEST", 2048)
    monkeypatch.setattr(long_documents, "LONGEST", 2048)
    monkeypatch.setattr(encode, "_AT_ONCE", 3000)
    monkeypatch.setattr(encode, "pieces", lambda *given: pieces(*given, longest=2048))
    got = encoder(texts)
    assert got.lengths.tolist() == [len(one) for one in expected]
    assert got.tokens.tolist() == [i for one in expected for i in one]
    assert max(asked, default=0) <= 2048


def test_a_run_of_one_character_is_cut_at_its_ends_alone(tokenizer):
    """Inside, what merges with what depends on how far it is from the beginning of the run."""
    text = "a few words " * 50 + "\n" * 3001 + "ab" * 1501 + " and a few more" * 50
    data, _, _ = as_buffer([text])
    cut = list(pieces(data, 0, len(data), tokenizer.encode_batch, 500))
    assert len(cut) > 2
    parts = tokenizer.encode_batch([text[start:end] for start, end in cut])
    assert [i for part in parts for i in part] == tokenizer.encode(text)


def test_pieces_cover_the_document_and_end_in_time(tokenizer):
    data, starts, ends = as_buffer(["before", "and so on, " * 900, "after"])
    start, end = int(starts[1]), int(ends[1])
    cut = list(pieces(data, start, end, tokenizer.encode_batch, 1000))
    assert cut[0][0] == start
    assert cut[-1][1] == end
    assert all(one[1] == other[0] for one, other in pairwise(cut))
    assert all(stop - begin <= 1000 for begin, stop in cut)
    assert len(cut) < 13


def test_a_word_that_cannot_be_cut_stays_whole():
    def encode_all(texts: list[str]) -> list[list[int]]:
        return [[len(text)] for text in texts]  # one id for each text: two halves never agree

    data, _, _ = as_buffer(["x" * 5000])
    assert list(pieces(data, 0, 5000, encode_all, 1000)) == [(0, 5000)]  # type: ignore[arg-type]


def test_text_that_is_no_text(tokenizer):
    with pytest.raises(UnicodeEncodeError):
        Encoder(tokenizer)(["\ud800"])
    with pytest.raises(InputError, match="one of auto, off, on"):
        Encoder(tokenizer, fast="yes").settle()  # type: ignore[arg-type]
