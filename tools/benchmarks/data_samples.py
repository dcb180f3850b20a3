"""Samples of a shard: `PackedSamples` against megatron-core's GPTDataset, CPU seconds.

    python -m tools.benchmarks.data_samples [documents=10000000 mean=40 reads=8192 ...]

Makes a shard of random tokens, with documents of a quarter to seven quarters of `mean` tokens, in a
temporary folder. Build: from files on disk to the first sample of an epoch; our document hashes
are there, as `prepare_corpus` leaves them, and GPTDataset writes its cache, as it always does.
Read: the same number of samples in random order, theirs one by one, ours in batches of `batches`;
pages of both were touched before. All in one process, in turns; the least of `rounds` is taken.
Every token of the shard must come once in an epoch, on both sides.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trivium.data_pipeline.config_tree import load
from trivium.data_pipeline.content import document_hashes
from trivium.data_pipeline.errors import fail_clean
from trivium.data_pipeline.samples import PackedSamples
from trivium.data_pipeline.shards import Shard, ShardWriter

VOCABULARY = 50_000
SEED = 1
_AT_ONCE = 1 << 18  # documents


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What is measured."""

    documents: int = 10_000_000
    mean: int = 40  # tokens of a document
    lengths: tuple[int, ...] = (2048, 4096)  # of a sample
    batches: tuple[int, ...] = (1, 8, 64)  # samples that ours reads at once
    reads: int = 8192  # samples
    rounds: int = 3


def make(prefix: Path, documents: int, mean: int) -> Shard:
    """A shard of random tokens."""
    chance = np.random.default_rng(SEED)
    with ShardWriter(prefix, VOCABULARY) as writer:
        for first in range(0, documents, _AT_ONCE):
            count = min(_AT_ONCE, documents - first)
            lengths = chance.integers(mean // 4, mean * 7 // 4 + 1, count)
            tokens = chance.integers(0, VOCABULARY, int(lengths.sum()), np.uint16)
            writer.add_documents(tokens, lengths)
    shard = Shard(prefix)
    document_hashes(shard)
    return shard


def compare(work: Workload) -> dict[str, Any]:
    """Least CPU seconds, samples a second, and how many times faster ours is.

    By sequence length: `build_seconds` (ours, theirs), `build_ratio` (ours to theirs: less is
    better), `reads_per_second` (`theirs` and ours by batch), `read_ratios` by batch, `complete`:
    whether ours and theirs have every token of the shard once.
    """
    with tempfile.TemporaryDirectory() as temporary:
        prefix = Path(temporary) / "shard"
        shard = make(prefix, work.documents, work.mean)
        return {
            "documents": work.documents,
            "tokens": shard.num_tokens,
            **{str(length): _compare(work, shard, length) for length in work.lengths},
        }


def _compare(work: Workload, shard: Shard, length: int) -> dict[str, Any]:
    build: dict[str, float] = {"ours": float("inf"), "theirs": float("inf")}
    for turn in range(work.rounds):
        for name in ("ours", "theirs") if turn % 2 == 0 else ("theirs", "ours"):
            make_it = _ours if name == "ours" else _theirs
            before = time.process_time()
            made = make_it(shard.prefix, length)
            made[0]
            build[name] = min(build[name], time.process_time() - before)
    ours, theirs = _ours(shard.prefix, length), _theirs(shard.prefix, length)
    complete = {
        "ours": _missed(shard, length, lambda n: ours[n]["tokens"], len(ours)),
        "theirs": _missed(shard, length, lambda n: [theirs[i]["tokens"].numpy() for i in n],
                          len(theirs)),
    }  # fmt: skip
    wanted = np.random.default_rng(SEED).permutation(min(len(ours), len(theirs)))[: work.reads]
    numbers = wanted.tolist()
    runs: dict[str, Callable[[], object]] = {
        "theirs": lambda: [theirs[i] and None for i in numbers]
    }
    for size in work.batches:
        runs[str(size)] = (
            lambda size=size: [  # type: ignore[misc]
                ours[wanted[at : at + size]] and None for at in range(0, len(wanted), size)
            ]
        )
    seconds = dict.fromkeys(runs, float("inf"))
    for _ in range(work.rounds):
        for name, run in runs.items():
            before = time.process_time()
            run()
            seconds[name] = min(seconds[name], time.process_time() - before)
    return {
        "build_seconds": build,
        "build_ratio": build["ours"] / build["theirs"],
        "reads_per_second": {name: len(wanted) / taken for name, taken in seconds.items()},
        "read_ratios": {str(n): seconds["theirs"] / seconds[str(n)] for n in work.batches},
        "complete": {name: missed <= length for name, missed in complete.items()},
    }


class _Ours:
    """One epoch of our samples; a number or numbers to a dictionary of arrays."""

    def __init__(self, samples: PackedSamples) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return -(-self.samples.token_count // self.samples.sequence_length)

    def __getitem__(self, numbers: Any) -> dict[str, Any]:
        return self.samples.gather(np.atleast_1d(numbers))


def _ours(prefix: Path, length: int) -> Any:
    return _Ours(PackedSamples([(prefix, 1.0)], length, SEED, "train", (1.0, 0.0, 0.0)))


def _theirs(prefix: Path, length: int) -> Any:
    from megatron.core.datasets import gpt_dataset
    from megatron.core.datasets.indexed_dataset import IndexedDataset
    from megatron.core.datasets.utils import Split

    known = {"vocab_size": VOCABULARY, "unique_identifiers": {}, "eod": 0, "pad": -1}
    with tempfile.TemporaryDirectory() as cache:
        config = gpt_dataset.GPTDatasetConfig(
            random_seed=SEED,
            sequence_length=length,
            split="100,0,0",
            blend=([str(prefix)], None),
            path_to_cache=cache,
            tokenizer=type("Tokenizer", (), known)(),
            reset_position_ids=False,
            reset_attention_mask=False,
            eod_mask_loss=False,
            create_attention_mask=False,
            mid_level_dataset_surplus=0.0,
        )
        indexed = IndexedDataset(str(prefix))
        numbers = np.arange(len(indexed.document_indices) - 1, dtype=np.int32)
        return gpt_dataset.GPTDataset(indexed, str(prefix), numbers, None, Split.train, config)


def _missed(shard: Shard, length: int, read: Callable[[Any], Any], count: int) -> int:
    """Tokens of the shard, counted by id, that an epoch of samples has too few or too many."""
    found: NDArray[np.int64] = np.zeros(VOCABULARY, np.int64)
    for first in range(0, count, 256):
        rows = read(np.arange(first, min(first + 256, count)))
        found += np.bincount(np.concatenate([np.ravel(row) for row in rows]), minlength=VOCABULARY)
    counts = shard.token_counts()
    counts = np.pad(counts, (0, VOCABULARY - len(counts)))
    return int(np.abs(found - counts).sum())


def main() -> None:
    """Compare on what the command line asks for, and print the figures as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    print(json.dumps(compare(load(Workload, None, parser.parse_args().overrides)), indent=1))


if __name__ == "__main__":
    sys.exit(fail_clean(main))
