"""From documents to shards: every part is encoded by a task, and the parts of a source are joined.

tokenizer/        the tokenizer's files, and the sample that it was trained on
encoded/00000     part 0: part.bin, part.idx, hashes.npy
shards/web        web.bin, web.idx, web.hash
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from .content import hash_path, write_hashes
from .encode import Encoder
from .fast_encoder import Choice, Fast
from .files import link_file, sha256_of, storage_errors, sync_file
from .parts import ArrowWriter, stored_batches
from .shards import Shard, ShardWriter, bin_path, idx_path, token_dtype, write_index
from .splits import SPLITS, split_of
from .stages.stage import Texts
from .stages.tally import text_bytes
from .tasks import Facts, Runner, Task
from .tokenizer import Tokenizer, load_tokenizer

SAMPLE = "sample.arrow"
_PART = "part"
_SLACK = 1.2  # sampled at first, of what is wanted: documents differ in size
_FRACTIONS = (0.98, 0.01, 0.01)  # of the splits that are counted: those of `data.split`


@dataclass(frozen=True)
class EncodedSource:
    """A source's documents as tokens."""

    name: str
    folder: Path  # with the three files of the shard
    documents: int
    tokens: int
    bytes: int  # of text
    dtype: str
    splits: dict[str, int]  # tokens
    counts: np.ndarray  # of every id
    files: dict[str, dict[str, object]]  # name -> bytes, sha256


# --- A sample of the text to train a tokenizer on ------------------------------


def sample_text(
    run: Runner, files: Sequence[Path], sizes: Sequence[int], budget: int, seed: int, out: Path
) -> list[str]:
    """Texts of some Arrow files, of at most `budget` bytes together, in the order of the corpus.

    A document draws a number from its text and the seed, and the smallest numbers stay: which ones
    does not depend on how the corpus is cut. The last one is cut to what is left.
    """
    total = sum(sizes)
    share = min(1.0, _SLACK * budget / max(total, 1))
    tasks = [
        Task(
            out / f"{number:05d}",
            sample_part,
            {"documents": str(file), "share": share, "seed": seed},
            size,
        )
        for number, (file, size) in enumerate(zip(files, sizes, strict=True))
    ]
    run(tasks, "sampling")
    drawn: list[tuple[int, str]] = []
    for task in tasks:
        for batch in stored_batches(task.output / SAMPLE):
            columns = batch.column("draw").to_pylist(), batch.column("text").to_pylist()
            drawn += zip(*columns, strict=True)
    held, kept = 0, []
    for place in sorted(range(len(drawn)), key=lambda number: drawn[number][0]):
        text = drawn[place][1]
        size = len(text.encode())
        if held + size > budget:
            text = text.encode()[: budget - held].decode(errors="ignore")
        kept.append((place, text))
        held += size
        if held >= budget:
            break
    return [text for _, text in sorted(kept) if text]


def sample_part(folder: Path, *, documents: str, share: float, seed: int) -> Facts:
    """The documents of a part whose draw is below `share` of all numbers."""
    limit = int(share * 2.0**64)
    sink = ArrowWriter(folder / SAMPLE)
    sampled = 0
    for batch in stored_batches(Path(documents)):
        texts = batch.column("text").to_pylist()
        draws = [xxhash.xxh3_64_intdigest(text.encode(), seed) for text in texts]
        below = [number for number, draw in enumerate(draws) if draw < limit]
        if below:
            columns = [[draws[n] for n in below], [texts[n] for n in below]]
            arrays = [pa.array(columns[0], pa.uint64()), pa.array(columns[1], pa.large_string())]
            sink.write(pa.table(arrays, names=["draw", "text"]))
            sampled += len(below)
    sink.close()
    return {"documents": sampled}


# --- Encoding ------------------------------------------------------------------


def encode(
    run: Runner,
    names: Sequence[str],
    files: Sequence[Path],
    sizes: Sequence[int],
    tokenizer: Tokenizer,
    append_eod: bool,
    fast: Fast,
    out: Path,
) -> list[EncodedSource]:
    """The shard of every source, in order; names[i] is the source of files[i].

    The files of `tokenizer` are in `out`/tokenizer.
    A source without a document has none. Which encoder is used is settled here, on the first
    documents, for all tasks.
    """
    encoder = Encoder(tokenizer, append_eod, fast)
    choice = encoder.settle(_first_texts(files))
    arguments: dict[str, Any] = {
        "tokenizer": str(out / "tokenizer"), "append_eod": append_eod, "choice": choice,
    }  # fmt: skip
    _encoders.clear()
    _encoders[tuple(arguments.values())] = encoder  # for tasks that this process does itself
    encoding = [
        Task(
            out / "encoded" / f"{number:05d}",
            encode_part,
            {"documents": str(file), **arguments},
            size,
        )
        for number, (file, size) in enumerate(zip(files, sizes, strict=True))
    ]
    facts = run(encoding, "encoding")
    places: dict[str, list[int]] = {}
    for number, (name, fact) in enumerate(zip(names, facts, strict=True)):
        if fact["documents"]:
            places.setdefault(name, []).append(number)
    joining = [
        Task(
            out / "shards" / name,
            join_parts,
            {
                "name": name,
                "parts": [str(encoding[number].output) for number in numbers],
                "vocab_size": tokenizer.vocab_size,
            },
            sum(facts[number]["tokens"] for number in numbers),
        )
        for name, numbers in places.items()
    ]
    joined = run(joining, "writing shards")
    return [
        EncodedSource(
            name,
            task.output,
            sum(facts[number]["documents"] for number in numbers),
            sum(facts[number]["tokens"] for number in numbers),
            sum(facts[number]["bytes"] for number in numbers),
            fact["dtype"],
            fact["splits"],
            np.load(task.output / "counts.npy"),
            fact["files"],
        )
        for (name, numbers), task, fact in zip(places.items(), joining, joined, strict=True)
    ]


def encode_part(
    folder: Path, *, documents: str, tokenizer: str, append_eod: bool, choice: Choice
) -> Facts:
    """The tokens of a part, as a shard of its own."""
    encoder = _encoder(tokenizer, append_eod, choice)
    hashes = [np.empty(0, np.uint64)]
    size = 0
    with ShardWriter(folder / _PART, encoder.tokenizer.vocab_size) as writer:
        for batch in stored_batches(Path(documents)):
            encoded = encoder(Texts(batch))
            writer.add_documents(encoded.tokens, encoded.lengths)
            hashes.append(encoded.hashes)
            size += text_bytes(batch)
    np.save(folder / "hashes.npy", np.concatenate(hashes))
    np.save(folder / "counts.npy", writer.counts)
    return {"documents": writer.num_documents, "tokens": writer.num_tokens, "bytes": size}


def join_parts(folder: Path, *, name: str, parts: Sequence[str], vocab_size: int) -> Facts:
    """One shard of the shards of parts, with its hashes; sizes and checksums of its files."""
    shards = [Shard(Path(part) / _PART) for part in parts]
    prefix, dtype = folder / name, token_dtype(vocab_size)
    with storage_errors(bin_path(prefix)):
        if len(shards) == 1:
            link_file(bin_path(shards[0].prefix), bin_path(prefix))
        else:
            _concatenate([bin_path(shard.prefix) for shard in shards], bin_path(prefix))
        ends = [np.zeros(1, np.int64)]
        for shard in shards:
            ends.append(shard.document_indices[1:] + ends[-1][-1])
        write_index(idx_path(prefix), dtype, [one.sequence_lengths for one in shards], ends)
    joined = Shard(prefix)
    hashes = np.concatenate([np.load(Path(part) / "hashes.npy") for part in parts])
    write_hashes(joined, hashes)
    counts = sum((np.load(Path(part) / "counts.npy") for part in parts), np.zeros(vocab_size, int))
    np.save(folder / "counts.npy", counts)
    lengths = np.diff(joined.document_offsets)
    sides = split_of(hashes, _FRACTIONS)
    files = [path(prefix) for path in (bin_path, idx_path, hash_path)]
    return {
        "dtype": dtype.name,
        "splits": {split: int(lengths[sides == n].sum()) for n, split in enumerate(SPLITS)},
        "files": {
            file.name: {"bytes": file.stat().st_size, "sha256": sha256_of(file)} for file in files
        },
    }


def _concatenate(files: Sequence[Path], out: Path) -> None:
    with open(out, "wb") as target:
        for file in files:
            with open(file, "rb") as source:
                shutil.copyfileobj(source, target, 16 << 20)
        sync_file(target)


def _first_texts(files: Sequence[Path]) -> list[str]:
    """Of the first part that has any."""
    for file in files:
        for batch in stored_batches(file):
            if len(batch):
                texts: list[str] = batch.column("text").slice(0, 200).to_pylist()
                return texts
    return []


_encoders: dict[Any, Encoder] = {}


def _encoder(tokenizer: str, append_eod: bool, choice: Choice) -> Encoder:
    """Made once a process."""
    key = (tokenizer, append_eod, choice)
    if key not in _encoders:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        _encoders.clear()
        _encoders[key] = Encoder(load_tokenizer(tokenizer), append_eod, choice=choice)
    return _encoders[key]
