"""Samples of a shard: CPU seconds of `PackedSamples` against megatron-core's GPTDataset.

    python -m tools.benchmarks.data_samples [documents='[10000000, 300000]' mean='[40, 500]']

Makes shards of random tokens (`texts` are not used), each of so many `documents` of a quarter to
seven quarters of `mean` tokens. Build: from files on disk to the first sample of an epoch, ten
times over for a small shard, and all are kept; our document hashes are there, as `prepare_corpus`
leaves them, and GPTDataset writes its cache, as it always does. Read: `reads` samples in random
order, theirs one by one, ours in batches of 1 and 64, after a first round that is not timed. Once
for every shard and length, on both sides, all samples of an epoch are read: they must have every
token of the shard once.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from tools.benchmarks.turns import (
    OURS,
    Asked,
    Contestant,
    Part,
    Passes,
    Ratio,
    Report,
    Work,
    main,
    quotient,
    seconds,
    spread,
)
from trivium.data_pipeline.content import document_hashes
from trivium.data_pipeline.errors import InputError
from trivium.data_pipeline.samples import PackedSamples
from trivium.data_pipeline.shards import Shard, ShardWriter

PEER = "megatron"
BUILD, READ = 1.0, 4.0  # bars: most of the peer's seconds for a build, its seconds of ours to read
SHARDS = ("many short", "few long")  # documents; in the order of `documents` and `mean`
LENGTHS = (2048, 4096)  # of a sample; those of a tiny run are a 32nd
BATCHES = (1, 64)  # samples that ours reads at once
VOCABULARY = 50_000
SEED = 1

_WRITTEN = 1 << 18  # documents at once
_BUILT = 3_000_000  # documents of all builds of a turn
_ASKED, _WARM = "asked.json", "warm"


@dataclass(frozen=True, kw_only=True)
class AskedSamples(Asked):
    """Shards, and how much of them to read."""

    documents: tuple[int, ...] = (10_000_000, 300_000)
    mean: tuple[int, ...] = (40, 500)  # tokens of a document of each shard
    reads: int = 8192  # samples

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("documents", "mean"):
            if len(getattr(self, name)) != len(SHARDS):
                raise InputError(f"{name} {getattr(self, name)}: one for each of two shards")


def prepare(asked: AskedSamples, folder: Path) -> dict[str, Any]:
    """Shards into `folder`."""
    if asked.tiny:
        asked = replace(asked, documents=(600, 100), mean=(40, 500), reads=32)
    lengths = [length // 32 if asked.tiny else length for length in LENGTHS]
    facts: dict[str, Any] = {}
    for name, documents, mean in zip(SHARDS, asked.documents, asked.mean, strict=True):
        shard = make(folder / name, documents, mean)
        facts |= {f"documents, {name}": documents, f"tokens, {name}": shard.num_tokens}
    make(folder / _WARM, 1000, 100)
    settings = {"lengths": lengths, "reads": asked.reads}
    (folder / _ASKED).write_bytes(orjson.dumps(settings))
    return {**facts, "reads": asked.reads}


def make(prefix: Path, documents: int, mean: int) -> Shard:
    """A shard of random tokens."""
    chance = np.random.default_rng(SEED)
    with ShardWriter(prefix, VOCABULARY) as writer:
        for first in range(0, documents, _WRITTEN):
            count = min(_WRITTEN, documents - first)
            lengths = chance.integers(mean // 4, mean * 7 // 4 + 1, count)
            tokens = chance.integers(0, VOCABULARY, int(lengths.sum()), np.uint16)
            writer.add_documents(tokens, lengths)
    shard = Shard(prefix)
    document_hashes(shard)
    return shard


class _Ours:
    """One epoch of our samples; a number or numbers to a dictionary of arrays."""

    def __init__(self, prefix: Path, length: int) -> None:
        self.samples = PackedSamples([(prefix, 1.0)], length, SEED, "train", (1.0, 0.0, 0.0))

    def __len__(self) -> int:
        return -(-self.samples.token_count // self.samples.sequence_length)

    def __getitem__(self, numbers: Any) -> dict[str, Any]:
        return self.samples.gather(np.atleast_1d(numbers))

    def inputs(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Input tokens of samples, end to end."""
        return np.ravel(self[numbers]["tokens"])


class _Theirs:
    """The same of GPTDataset, one at a time."""

    def __init__(self, prefix: Path, length: int) -> None:
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
            self.samples = gpt_dataset.GPTDataset(
                indexed, str(prefix), numbers, None, Split.train, config
            )

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, number: int) -> Any:
        return self.samples[number]

    def inputs(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Input tokens of samples, end to end."""
        return np.concatenate([self[number]["tokens"].numpy() for number in numbers.tolist()])


Samples = type[_Ours] | type[_Theirs]


def _settings(folder: Path, place: int) -> tuple[int, int]:
    """Length of a sample, the one at this place of LENGTHS, and how many are read."""
    settings = orjson.loads((folder / _ASKED).read_bytes())
    return settings["lengths"][place], settings["reads"]


def _build(kind: Samples, shard: str, place: int) -> Callable[[Path], Work]:
    def ready(folder: Path) -> Work:
        length, _ = _settings(folder, place)
        kind(folder / _WARM, 64)[0]
        times = min(10, -(-_BUILT // Shard(folder / shard).num_documents))

        def work() -> dict[str, Any]:
            kept = []  # memory of one is not given to the next, as in a process that builds once
            for _ in range(times):
                kept.append(kind(folder / shard, length))
                kept[-1][0]
            return {"each": times}

        return work

    return ready


def _read(kind: Samples, shard: str, place: int, together: int = 0) -> Callable[[Path], Work]:
    def ready(folder: Path) -> Work:
        length, reads = _settings(folder, place)
        made: Any = kind(folder / shard, length)
        total = Shard(folder / shard).num_tokens // length  # both have at least so many
        wanted = np.random.default_rng(SEED).permutation(total)[:reads]
        numbers = wanted.tolist()

        def work() -> dict[str, Any]:
            if together:
                for first in range(0, len(wanted), together):
                    made[wanted[first : first + together]]
            else:
                for number in numbers:
                    made[number]
            checked = together in (0, BATCHES[-1])
            return {"each": len(wanted), "made": (made, shard, length) if checked else None}

        work()
        return work

    return ready


def judge(found: Any, folder: Path) -> dict[str, Any]:
    """How often the work was done, and, once for each who reads, tokens that an epoch has amiss."""
    answer = {"each": found["each"]}
    if not found.get("made"):
        return answer
    made, shard, length = found["made"]
    mark = folder / f"{type(made).__name__} {shard} {length}"
    if not mark.exists():
        answer["amiss"] = missed(Shard(folder / shard), made)
        answer["length"] = length
        mark.touch()
    return answer


def missed(shard: Shard, made: _Ours | _Theirs) -> int:
    """Tokens of the shard, counted by id, that an epoch of samples has too few or too many."""
    found: NDArray[np.int64] = np.zeros(VOCABULARY, np.int64)
    for first in range(0, len(made), 256):
        tokens = made.inputs(np.arange(first, min(first + 256, len(made))))
        found += np.bincount(tokens, minlength=VOCABULARY)
    counts = shard.token_counts()
    return int(np.abs(found - np.pad(counts, (0, VOCABULARY - len(counts)))).sum())


def _name(who: str, what: str, shard: str, length: int) -> str:
    return f"{who}, {what} of {shard}, S {length}"


def _contestants() -> dict[str, Contestant]:
    ours = ("numba", "pip install 'trivium[data]'")
    theirs = ("megatron", "pip install megatron-core")
    made = {}
    for shard in SHARDS:
        for place, length in enumerate(LENGTHS):
            for who, kind, needs in ((OURS, _Ours, ours), (PEER, _Theirs, theirs)):
                name = _name(who, "build", shard, length)
                made[name] = Contestant(_build(kind, shard, place), *needs)
            for size in BATCHES:
                name = _name(OURS, f"batches of {size}", shard, length)
                made[name] = Contestant(_read(_Ours, shard, place, size), *ours)
            name = _name(PEER, "samples", shard, length)
            made[name] = Contestant(_read(_Theirs, shard, place), *theirs)
    return made


def report(passes: Passes, facts: dict[str, Any]) -> Report:
    """The table, builds and reads against the peer's, and whether epochs are complete."""
    rows, ratios, failures = [], [], []
    for name, turn in passes[0].items():
        each = turn.result["each"]
        cpu = seconds(passes, name)
        per = [one / each for one in cpu]
        build = ", build of" in name
        rate = "" if build else spread([1 / one for one in per])
        rows.append([name, spread(cpu), spread([one * 1e3 for one in per]), rate])
        if turn.result.get("amiss", 0) > turn.result.get("length", 0):  # at the seam: one sample
            failures.append(f"{name}: {turn.result['amiss']:,} tokens of an epoch amiss MISSED")
    for shard in SHARDS:
        for length in LENGTHS:
            ours, theirs = (_name(who, "build", shard, length) for who in (OURS, PEER))
            ratios.append(
                Ratio(f"CPU s, {ours} / {PEER}", quotient(passes, ours, theirs), BUILD, least=False)
            )
            theirs = _name(PEER, "samples", shard, length)
            for size in BATCHES:
                ours = _name(OURS, f"batches of {size}", shard, length)
                ratios.append(
                    Ratio(f"CPU s, {PEER} / {ours}", quotient(passes, theirs, ours), READ)
                )
    head = ["", "CPU s", "ms each", "samples/CPU s"]
    return Report(head, rows, [ratio for ratio in ratios if ratio.values], failures)


PART = Part("tools.benchmarks.data_samples", _contestants(), prepare, judge, report, AskedSamples)

if __name__ == "__main__":
    sys.exit(main(PART))
