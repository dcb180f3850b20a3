"""Shards: the bytes that megatron-core writes, and no shard that is not whole."""

from __future__ import annotations

import errno
import gc
import io
import os
import pickle
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trivium.data_pipeline import shards
from trivium.data_pipeline.errors import InputError
from trivium.data_pipeline.shards import Shard, ShardWriter, token_dtype, unigram_entropy

EOD = 0


def documents(count: int, vocab_size: int, seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    lengths = random.integers(0, 40, count)
    lengths[:3] = 0, 1, 0
    return [random.integers(0, vocab_size, length) for length in lengths]


def write(prefix: Path, docs: list[np.ndarray], vocab_size: int | None, **options: Any) -> Shard:
    with ShardWriter(prefix, vocab_size, **options) as writer:
        for ids in docs:
            writer.add_document(ids)
    return Shard(prefix)


def pair(prefix: Path) -> tuple[bytes, bytes]:
    return Path(f"{prefix}.bin").read_bytes(), Path(f"{prefix}.idx").read_bytes()


# --- Against megatron-core ------------------------------------------------------------------------


@pytest.mark.parametrize("vocab_size", [300, 65499, 65500, 200_000])
def test_bytes_are_those_of_megatrons_builder(tmp_path: Path, vocab_size: int) -> None:
    torch = pytest.importorskip("torch")
    megatron = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    docs = documents(50, vocab_size)
    dtype = megatron.DType.optimal_dtype(vocab_size)
    builder = megatron.IndexedDatasetBuilder(f"{tmp_path}/theirs.bin", dtype=dtype)
    for ids in docs:
        builder.add_document(torch.from_numpy(ids), [len(ids)])
    builder.finalize(f"{tmp_path}/theirs.idx")

    ours = write(tmp_path / "ours", docs, vocab_size)

    assert ours.dtype == np.dtype(dtype) == token_dtype(vocab_size)
    assert pair(tmp_path / "ours") == pair(tmp_path / "theirs")
    with ShardWriter(tmp_path / "bulk", vocab_size) as writer:  # the same in two batches
        for part in (docs[:20], docs[20:]):
            lengths = np.array([len(ids) for ids in part])
            writer.add_documents(np.concatenate(part), lengths)
    assert pair(tmp_path / "bulk") == pair(tmp_path / "theirs")


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "int64", "uint16"])
def test_documents_of_several_sequences(tmp_path: Path, dtype: str) -> None:
    torch = pytest.importorskip("torch")
    megatron = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    docs = [([1, 2, 3, 4, 5], [2, 3]), ([6], [1]), ([7, 8], [0, 2]), ([], [])]
    builder = megatron.IndexedDatasetBuilder(f"{tmp_path}/theirs.bin", dtype=getattr(np, dtype))
    with ShardWriter(tmp_path / "ours", dtype=dtype) as writer:
        for ids, lengths in docs:
            builder.add_document(torch.tensor(ids), lengths)
            writer.add_document(ids, lengths)
    builder.finalize(f"{tmp_path}/theirs.idx")
    assert pair(tmp_path / "ours") == pair(tmp_path / "theirs")

    ours = Shard(tmp_path / "ours")
    assert ours.document_offsets.tolist() == [0, 5, 6, 8, 8]
    theirs = megatron.IndexedDataset(f"{tmp_path}/ours")
    assert [theirs[i].tolist() for i in range(len(theirs))] == [[1, 2], [3, 4, 5], [6], [], [7, 8]]


def test_a_shard_loads_in_megatrons_gpt_dataset(tmp_path: Path) -> None:
    gpt = pytest.importorskip("megatron.core.datasets.gpt_dataset")
    from megatron.core.datasets.indexed_dataset import IndexedDataset
    from megatron.core.datasets.utils import Split

    docs = [ids[ids != EOD] for ids in documents(200, 1000)]
    ours = write(tmp_path / "ours", docs, 1000, eod_id=EOD)
    known = {"vocab_size": 1000, "unique_identifiers": {}}
    tokenizer = type("Tokenizer", (), {"eod": EOD, "pad": -1, **known})()
    config = gpt.GPTDatasetConfig(
        random_seed=3,
        sequence_length=32,
        split="100,0,0",
        blend=([str(tmp_path / "ours")], None),
        path_to_cache=str(tmp_path / "cache"),
        tokenizer=tokenizer,
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
        mid_level_dataset_surplus=0.0,
    )
    indexed = IndexedDataset(str(tmp_path / "ours"))
    assert [indexed[i].tolist() for i in range(200)] == [[*ids, EOD] for ids in docs]
    dataset = gpt.GPTDataset(
        indexed, str(tmp_path / "ours"), np.arange(200), 50, Split.train, config
    )
    stream = [ours.document(int(i)).tolist() for i in dataset.document_index]
    flat = np.array([token for ids in stream for token in ids])
    for i in range(10):
        at = int(dataset.shuffle_index[i]) * 32
        assert dataset[i]["tokens"].tolist() == flat[at : at + 32].tolist()
        assert dataset[i]["labels"].tolist() == flat[at + 1 : at + 33].tolist()


# --- Reading --------------------------------------------------------------------------------------


def test_reads_back_and_views_outlive_the_shard(tmp_path: Path) -> None:
    docs = documents(100, 5000)
    view = write(tmp_path / "s", docs, 5000).document(4)
    lengths = Shard(tmp_path / "s").sequence_lengths
    gc.collect()
    assert view.tolist() == docs[4].tolist()
    assert lengths.tolist() == [len(ids) for ids in docs]
    assert len(pickle.loads(pickle.dumps(Shard(tmp_path / "s")))) == 100


def test_an_empty_shard_is_a_shard(tmp_path: Path) -> None:
    shard = write(tmp_path / "s", [], 300)
    assert (shard.num_documents, shard.num_tokens, shard.tokens.size) == (0, 0, 0)


@pytest.mark.parametrize(
    ("suffix", "damage", "says"),
    [
        ("idx", lambda raw: raw[:20], "shorter than its 34-byte header"),
        ("idx", lambda raw: raw[:-8], "bytes where its header says"),
        ("idx", lambda raw: b"PK" + raw[2:], "does not start like"),
        ("idx", lambda raw: raw[:9] + b"\2" + raw[10:], "version 2"),
        ("idx", lambda raw: raw[:17] + b"\x63" + raw[18:], "dtype code 99"),
        ("idx", lambda raw: raw[:17] + b"\x07" + raw[18:], "float32 values"),
        ("bin", lambda raw: raw[:-1], "bytes where its index says"),
        ("bin", lambda raw: raw + b"\0\0", "bytes where its index says"),
        ("bin", lambda raw: b"", "is 0 bytes where its index says"),
    ],
)
def test_damage_is_named_in_one_line(tmp_path: Path, suffix: str, damage: Any, says: str) -> None:
    write(tmp_path / "s", documents(30, 1000), 1000)
    path = tmp_path / f"s.{suffix}"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=says) as raised:
        Shard(tmp_path / "s")
    assert str(path) in str(raised.value)
    assert "again" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_missing_half_is_named(tmp_path: Path) -> None:
    write(tmp_path / "s", documents(30, 1000), 1000)
    for suffix in ("bin", "idx"):
        (tmp_path / f"s.{suffix}").rename(tmp_path / "away")
        with pytest.raises(InputError, match=rf"s\.{suffix}: no such file"):
            Shard(tmp_path / "s")
        (tmp_path / "away").rename(tmp_path / f"s.{suffix}")


def test_offsets_that_disagree_with_lengths_are_found(tmp_path: Path) -> None:
    shard = write(tmp_path / "s", documents(30, 1000), 1000)
    raw = bytearray((tmp_path / "s.idx").read_bytes())
    at = 34 + 4 * 30 + 8 * 10
    raw[at : at + 8] = int(shard.pointers[10] + 2).to_bytes(8, "little")
    (tmp_path / "s.idx").write_bytes(raw)
    with pytest.raises(InputError, match="puts sequence 10 at byte"):
        _ = Shard(tmp_path / "s").document_offsets


# --- Writing --------------------------------------------------------------------------------------


def test_an_id_outside_the_vocabulary_is_refused(tmp_path: Path) -> None:
    for ids, wrong in (([1, 300], 300), ([1, -1], -1)):
        with pytest.raises(InputError, match=f"token id {wrong} in document 1"):
            with ShardWriter(tmp_path / "s", 300) as writer:
                writer.add_document([1, 2])
                writer.add_document(ids)
    assert list(tmp_path.iterdir()) == []


def test_an_exception_leaves_nothing_and_spares_what_was_there(tmp_path: Path) -> None:
    write(tmp_path / "s", documents(30, 1000), 1000)
    before = pair(tmp_path / "s")
    with pytest.raises(ZeroDivisionError):
        with ShardWriter(tmp_path / "s", 1000) as writer:
            writer.add_document([1])
            raise ZeroDivisionError
    assert pair(tmp_path / "s") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.bin", "s.idx"]


def test_a_killed_writer_leaves_no_shard(tmp_path: Path) -> None:
    program = f"""
        from trivium.data_pipeline.shards import ShardWriter
        writer = ShardWriter({str(tmp_path / "s")!r}, 1000)
        while True:
            writer.add_document(range(1000))
            if writer.num_documents == 1000:
                print("far enough", flush=True)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "far enough\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with pytest.raises(InputError, match="no such file"):
        Shard(tmp_path / "s")
    assert write(tmp_path / "s", documents(5, 1000), 1000).num_documents == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.bin", "s.idx"]


@pytest.mark.parametrize("full_at", ["write", "finish"])
def test_a_full_disk_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full_at: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    class FullFile(io.BytesIO):
        write = full  # type: ignore[assignment]

    writer = ShardWriter(tmp_path / "s", 1000)
    if full_at == "finish":
        monkeypatch.setattr(shards, "sync_file", full)
    else:
        writer._stream.close()
        writer._stream = FullFile()  # type: ignore[assignment]
    with pytest.raises(InputError, match=r"the disk is full .* free some space"):
        with writer:
            writer.add_document([1, 2, 3])
    assert list(tmp_path.iterdir()) == []


def test_unigram_entropy(tmp_path: Path) -> None:
    assert unigram_entropy(np.array([5, 5, 0, 5, 5])) == pytest.approx(np.log(4))
    assert unigram_entropy(np.array([7, 0])) == 0.0
    docs = documents(100, 50)
    with ShardWriter(tmp_path / "s", 50) as writer:
        for ids in docs:
            writer.add_document(ids)
    counts = np.bincount(np.concatenate(docs), minlength=50)
    assert np.array_equal(writer.counts, counts)
    assert np.array_equal(Shard(tmp_path / "s").token_counts(), counts)
