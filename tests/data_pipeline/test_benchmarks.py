"""The benchmarks of the data pipeline compare like with like."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("numba")

from tests.data_pipeline.test_tokenizer import documents
from tools.benchmarks import data_encode, data_samples
from trivium.data_pipeline.errors import InputError
from trivium.data_pipeline.tokenizer_training import train_tokenizer


def test_an_epoch_of_both_sides_has_every_token():
    pytest.importorskip("megatron.core.datasets.gpt_dataset")
    work = data_samples.Workload(
        documents=500, mean=40, lengths=(64,), batches=(1, 8), reads=64, rounds=1
    )
    found = data_samples.compare(work)
    assert found["64"]["complete"] == {"ours": True, "theirs": True}
    assert found["64"]["read_ratios"].keys() == {"1", "8"}
    assert found["64"]["build_ratio"] > 0


def test_lines_are_repeated_with_other_words(tmp_path: Path):
    (tmp_path / "a.txt").write_text(" ".join(f"word{n}" for n in range(150)))
    count, size = data_encode.write_lines((str(tmp_path / "a.txt"),), 0.005, tmp_path / "l.jsonl")
    texts = [json.loads(line)["text"] for line in (tmp_path / "l.jsonl").read_text().splitlines()]
    assert len(texts) == len(set(texts)) == count
    assert sum(map(len, texts)) == size >= 5000


@pytest.mark.slow
def test_both_sides_write_the_same_shard(tmp_path: Path):
    pytest.importorskip("transformers")
    pytest.importorskip("megatron.core.datasets.indexed_dataset")
    train_tokenizer("bpe", documents(), 500, tmp_path / "tokenizer")
    found = data_encode.compare(
        data_encode.Workload(
            sources=(__file__,),
            tokenizer=str(tmp_path / "tokenizer"),
            megabytes=1,
            sides=("words", "off", data_encode.PEER),
        )
    )
    assert found["equal"] == {"words": True, "off": True}


def test_a_peer_that_cannot_read_it_is_named(tmp_path: Path):
    train_tokenizer("sentencepiece-bpe", documents(), 500, tmp_path)
    with pytest.raises(InputError, match=r"the peer reads a tokenizer\.json"):
        data_encode.compare(data_encode.Workload(tokenizer=str(tmp_path)))
