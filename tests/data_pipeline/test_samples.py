"""Samples: a pure function of content, blend, seed, split, length and index; of nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trivium.data_pipeline import gather, permutation
from trivium.data_pipeline.content import document_hashes, hash_path
from trivium.data_pipeline.errors import InputError
from trivium.data_pipeline.samples import SPLITS, PackedSamples
from trivium.data_pipeline.shards import Shard, bin_path, idx_path

ALL = (1.0, 0.0, 0.0)
S = 16


def samples(prefix: Path, **changed: Any) -> PackedSamples:
    chosen = {"sequence_length": S, "seed": 3, "split": "train", "split_fractions": ALL} | changed
    return PackedSamples([(prefix, 1.0)], **chosen)


def test_each_sample_is_a_window(numbered):
    got = samples(numbered).gather(np.arange(40))
    assert got["tokens"].shape == got["labels"].shape == (40, S)
    assert (got["tokens"][:, 1:] == got["labels"][:, :-1]).all()
    assert {name: str(array.dtype) for name, array in got.items()} == {
        "tokens": "int64",
        "labels": "int64",
        "loss_mask": "float32",
        "position_ids": "int64",
        "document_ids": "int32",
    }
    assert (got["position_ids"] == np.arange(S)).all()
    assert (got["loss_mask"] == 1).all()


def test_random_access_in_any_batches_and_order(numbered):
    stream = samples(numbered)
    whole = stream.gather(np.arange(3000))["tokens"]
    order = np.random.default_rng(0).permutation(3000)
    for size in (1, 7, 500):
        fresh = samples(numbered)
        for start in range(0, 1000, size):
            chosen = order[start : start + size]
            assert (fresh.gather(chosen)["tokens"] == whole[chosen]).all()


def test_every_token_once_in_an_epoch_and_epochs_differ(numbered):
    stream = samples(numbered)
    total = Shard(numbered).num_tokens
    assert stream.token_count == total
    epochs = 4
    count = total * epochs // S
    tokens = stream.gather(np.arange(count))["tokens"]
    times = np.bincount(tokens.ravel(), minlength=total)
    assert times.max() == epochs
    assert (times < epochs).sum() < S  # the tail of the last epoch has not had its turn
    per_epoch = total // S
    again = np.bincount(tokens[:per_epoch].ravel()) - 1
    assert again.max() <= 1
    assert (again > 0).sum() < S  # the sample at the seam reads on into the next epoch
    assert (tokens[:per_epoch] != tokens[per_epoch : 2 * per_epoch]).any(axis=1).all()


def test_shuffled_over_the_whole_epoch(numbered):
    first = samples(numbered).gather(np.arange(100))["tokens"][:, 0]
    total = Shard(numbered).num_tokens
    assert first.min() < total * 0.1
    assert first.max() > total * 0.9
    assert (np.diff(first) < 0).mean() > 0.3


def test_document_mask(numbered):
    plain = samples(numbered).gather(np.arange(200))
    masked = samples(numbered, document_mask=True).gather(np.arange(200))
    assert (plain["tokens"] == masked["tokens"]).all()
    offsets = Shard(numbered).document_offsets
    owner = np.searchsorted(offsets, masked["tokens"], side="right") - 1
    new = np.diff(owner, axis=1) != 0
    assert (np.diff(masked["document_ids"], axis=1) == new).all()
    assert (masked["document_ids"][:, 0] == 0).all()
    steps = np.diff(masked["position_ids"], axis=1)
    assert (steps[~new] == 1).all()
    assert (masked["position_ids"][:, 1:][new] == 0).all()
    assert (masked["position_ids"][:, 0] == 0).all()
    next_owner = np.searchsorted(offsets, masked["labels"], side="right") - 1
    assert (masked["loss_mask"] == (owner == next_owner)).all()


def test_a_document_that_follows_itself_is_another_document(make_shard):
    stream = samples(make_shard("one", [[1, 2, 3]]), sequence_length=2, document_mask=True)
    got = stream.gather(np.arange(6))
    starts = (got["labels"] == 1).astype(int)
    assert (got["loss_mask"] == 1 - starts).all()


def test_longer_than_an_epoch_needs_more_data(make_shard):
    prefix = make_shard("tiny", [[1, 2, 3], []])
    with pytest.raises(InputError, match=r"holds 3 tokens in 1 of 2 documents.*sample of 16 \+ 1"):
        samples(prefix)


def test_empty_documents_and_one_long_document(make_shard):
    stream = samples(make_shard("s", [[], list(range(1000)), []]))
    tokens = stream.gather(np.arange(1000 // S))["tokens"]
    assert tokens.size - np.unique(tokens).size < S
    assert stream.document_count == 1


def test_seed_split_and_length_matter(numbered):
    base = samples(numbered)
    for change in ({"seed": 4}, {"sequence_length": 8}, {"split_fractions": (0.5, 0.5, 0.0)}):
        assert samples(numbered, **change).fingerprint != base.fingerprint
    assert (
        samples(numbered, seed=4).gather([0, 1, 2])["tokens"] != base.gather([0, 1, 2])["tokens"]
    ).any()
    assert samples(numbered).fingerprint == base.fingerprint


def test_where_the_files_lie_does_not_matter(numbered, tmp_path):
    moved = tmp_path / "elsewhere" / "renamed"
    moved.parent.mkdir()
    for path in (bin_path, idx_path):
        shutil.copy(path(numbered), path(moved))
    assert samples(moved).fingerprint == samples(numbered).fingerprint
    chosen = np.arange(0, 5000, 37)
    assert (
        samples(moved).gather(chosen)["tokens"] == samples(numbered).gather(chosen)["tokens"]
    ).all()


def test_the_order_is_pinned(numbered):
    """A change here is a change of everybody's data order: raise _ORDER_VERSION with it."""
    first = samples(numbered).gather([0, 1, 1000])["tokens"]
    assert first[:, :3].tolist() == PINNED


def test_splits_are_disjoint_complete_and_keep_duplicates_together(make_shard):
    chance = np.random.default_rng(1)
    contents = [chance.integers(0, 40_000, chance.integers(20, 60)).tolist() for _ in range(400)]
    documents = contents + contents[:200]  # half of them twice
    prefix = make_shard("twice", documents)
    owner: dict[int, set[str]] = {}
    counted = 0
    for split in SPLITS:
        stream = samples(prefix, split=split, split_fractions=(0.6, 0.2, 0.2))
        counted += stream.token_count
        rows = stream.gather(np.arange(stream.num_samples_per_epoch))["tokens"]
        for token in np.unique(rows).tolist():
            owner.setdefault(token, set()).add(split)
    assert counted == Shard(prefix).num_tokens
    hashes = document_hashes(Shard(prefix))
    assert (hashes[:200] == hashes[400:]).all()
    # A token of 40,000 is in one document or so; count those in two splits against chance.
    in_two = sum(len(splits) > 1 for splits in owner.values()) / len(owner)
    assert in_two < 0.25


def test_split_of_a_document_is_of_its_content_alone(make_shard):
    chance = np.random.default_rng(2)
    documents = [(np.arange(30) + 100 * i).tolist() for i in chance.permutation(300)]
    fractions = (0.5, 0.3, 0.2)
    sides: list[dict[str, set[int]]] = []
    for name, order in (("a", documents), ("b", documents[::-1][:250])):
        prefix = make_shard(name, order)
        side = {}
        for split in SPLITS:
            stream = samples(prefix, split=split, split_fractions=fractions, seed=len(name))
            rows = stream.gather(np.arange(stream.num_samples_per_epoch + 2))["tokens"]
            side[split] = set((rows // 100).ravel().tolist())
        assert not side["train"] & side["validation"]
        assert not side["train"] & side["test"]
        sides.append(side)
    for split in SPLITS:
        assert sides[1][split] <= sides[0][split]
        share = len(sides[0][split]) / 300
        assert share == pytest.approx(fractions[SPLITS.index(split)], abs=0.1)


def test_a_split_that_has_nothing_says_what_to_do(numbered):
    with pytest.raises(InputError, match=r"test split holds 0 tokens.*larger test fraction"):
        samples(numbered, split="test", split_fractions=(0.5, 0.5, 0.0))


@pytest.mark.parametrize("fractions", [(0.5, 0.5), (1.0, 0.5, -0.5), (0.5, 0.1, 0.1)])
def test_fractions_that_do_not_add_up(numbered, fractions):
    with pytest.raises(InputError, match="split_fractions"):
        samples(numbered, split_fractions=fractions)


@pytest.fixture
def three(make_shard):
    """Three shards, told apart by the thousands of their tokens."""
    return [
        (make_shard(f"s{k}", [range(10_000 * k + 50 * d, 10_000 * k + 50 * d + 50)
                              for d in range(60)]), weight)
        for k, weight in enumerate((0.5, 0.2, 0.3))
    ]  # fmt: skip


def blended(sources: list[tuple[Path, float]]) -> PackedSamples:
    return PackedSamples(sources, S, 3, "train", ALL)


def test_a_blend_keeps_its_weights_at_every_prefix(three):
    source = blended(three).gather(np.arange(4000))["tokens"][:, 0] // 10_000
    for number, (_, weight) in enumerate(three):
        due = np.arange(1, 4001) * weight
        assert np.abs(np.cumsum(source == number) - due).max() < 3


def test_a_source_is_read_the_same_alone_and_blended(three):
    tokens = blended(three).gather(np.arange(1000))["tokens"]
    for number, (prefix, _) in enumerate(three):
        rows = tokens[tokens[:, 0] // 10_000 == number]
        assert (rows == samples(prefix).gather(np.arange(len(rows)))["tokens"]).all()


def test_the_order_in_which_sources_are_named_does_not_matter(three):
    one, other = blended(three), blended(three[::-1])
    assert one.fingerprint == other.fingerprint
    chosen = np.arange(0, 2000, 3)
    assert (one.gather(chosen)["tokens"] == other.gather(chosen)["tokens"]).all()


def test_weights_are_shares(three):
    assert blended([(p, 10 * w) for p, w in three]).weights == pytest.approx(blended(three).weights)
    with pytest.raises(InputError, match=r"s0: weight 0"):
        blended([(three[0][0], 0.0), three[1]])


def test_another_process_reads_the_same(numbered):
    program = (
        "import json, sys; from trivium.data_pipeline.samples import PackedSamples as P\n"
        f"s = P([(sys.argv[1], 1.0)], {S}, 3, 'train', (1.0, 0.0, 0.0))\n"
        "print(json.dumps([s.fingerprint, s.gather(range(500, 600))['tokens'].tolist()]))\n"
        "assert 'torch' not in sys.modules and 'megatron' not in sys.modules\n"
    )
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        "PYTHONHASHSEED": "77",
    }
    done = subprocess.run(
        [sys.executable, "-c", program, str(numbered)],
        capture_output=True, text=True, check=True, env=environment,
    )  # fmt: skip
    fingerprint, tokens = json.loads(done.stdout)
    stream = samples(numbered)
    assert fingerprint == stream.fingerprint
    assert tokens == stream.gather(range(500, 600))["tokens"].tolist()


def test_without_a_hash_file_in_a_folder_that_cannot_be_written(numbered, monkeypatch):
    with_file = samples(numbered).fingerprint
    hash_path(numbered).unlink()

    def refused(*_: object) -> None:
        raise InputError("cannot write here")

    monkeypatch.setattr("trivium.data_pipeline.content.write_atomic", refused)
    assert samples(numbered).fingerprint == with_file
    assert not hash_path(numbered).exists()


def test_hash_files_of_either_version_are_read_and_of_another_shard_are_not(make_shard):
    prefix = make_shard("a", [[1, 2], [3]])
    wanted = document_hashes(Shard(prefix))
    second = hash_path(prefix).read_bytes()
    old = b"TRVHASH1" + hashlib.sha256(idx_path(prefix).read_bytes()).digest() + b"\7" * 16
    for content in (second[:40] + b"\7" * 16, old):
        hash_path(prefix).write_bytes(content)
        assert document_hashes(Shard(prefix)).tolist() == [0x0707070707070707] * 2
    for content in (b"TRVHASH3" + second[8:], old[:8] + b"\0" * 32 + old[40:], second[:39]):
        hash_path(prefix).write_bytes(content)
        assert document_hashes(Shard(prefix)).tolist() == wanted.tolist()
    assert Shard(make_shard("same lengths", [[8, 9], [7]])).layout == Shard(prefix).layout
    assert Shard(make_shard("other lengths", [[8], [9, 7]])).layout != Shard(prefix).layout


def test_far_samples_cost_no_more(numbered):
    far = samples(numbered).gather([10**9, 10**9 + 1])
    assert (far["tokens"] == samples(numbered).gather([10**9, 10**9 + 1])["tokens"]).all()
    with pytest.raises(InputError, match="numbered from 0"):
        samples(numbered).gather([-1])


PINNED = [[7426, 7427, 7428], [6614, 6615, 6616], [3236, 3237, 3238]]


def test_compiled_or_not_samples_are_the_same(make_shard, monkeypatch):
    pytest.importorskip("numba")
    chance = np.random.default_rng(7)
    contents = [
        chance.integers(0, 40_000, n).tolist()
        for n in (*chance.integers(0, 30, 200), 900, *chance.integers(0, 5, 50))
    ]
    prefix = make_shard("both", contents)
    wanted = np.concatenate([chance.integers(0, 2000, 300), [0, 1, 10**6]])
    for length in (1, S, 700):
        for mask in (False, True):
            chosen = {"sequence_length": length, "document_mask": mask}
            compiled = samples(prefix, **chosen).gather(wanted)
            with monkeypatch.context() as patch:
                patch.setattr(gather, "fill_rows", gather.fill_in_numpy)
                patch.setattr(gather, "stream_ends", gather.ends_in_numpy)
                patch.setattr(permutation, "sort_into", permutation.sort_in_numpy)
                plain = samples(prefix, **chosen).gather(wanted)
            for name, array in plain.items():
                assert array.dtype == compiled[name].dtype
                assert (array == compiled[name]).all(), name


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 8, 31, 64, 1000, 4097, 70_000])
def test_a_permutation_sorted_either_way(count, monkeypatch):
    order = permutation.shuffled(count, 5, "key")
    assert np.bincount(order, minlength=count).tolist() == [1] * count
    monkeypatch.setattr(permutation, "sort_into", permutation.sort_in_numpy)
    assert (permutation.shuffled(count, 5, "key") == order).all()
    if count > 60:
        assert (permutation.shuffled(count, 6, "key") != order).any()


def test_numbers_whose_keys_begin_alike_are_sorted_by_all_of_them():
    """Of so many keys some agree in all bits that there are beside a number."""
    pytest.importorskip("numba")
    count, start = 6_000_000, np.uint64(5)
    order = np.empty(count, np.uint32)
    permutation.sort_into(order, start)
    keys = permutation.keys(count, start)[order]
    assert (keys[1:] > keys[:-1]).all()
    alike = keys >> np.uint64((count - 1).bit_length())
    number = order[:-1][alike[1:] == alike[:-1]].astype(np.int64)
    after = order[1:][alike[1:] == alike[:-1]]
    assert (number < after).any()
    assert (number > after).any()
