"""From documents to a tokenizer, a shard and a manifest: prepared once, found again by content.

Documents are encoded by worker processes in batches of bounded size and written in order. The
manifest is written last: a folder without one is not prepared, and preparing again starts over.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .content import hash_documents, write_hashes
from .documents import Document, ReadCounts, read_documents
from .errors import InputError
from .files import sha256_of, write_atomic
from .shards import Shard, ShardWriter, bin_path, idx_path, unigram_entropy
from .tokenizer import Tokenizer, load_tokenizer
from .tokenizer_training import KINDS, save_tokenizer, train_tokenizer

MANIFEST = "manifest.json"
_BATCH_CHARACTERS = 1 << 20


@dataclass(frozen=True, kw_only=True)
class CorpusSpec:
    """What to prepare."""

    sources: tuple[str, ...]
    tokenizer: str = "bpe"
    vocab_size: int = 32768
    text_key: str = "text"
    append_eod: bool = True
    on_error: str = "fail"
    workers: int | None = None
    name: str = "corpus"
    seed: int = 0


@dataclass(frozen=True)
class Manifest:
    """What a prepared folder holds."""

    folder: Path
    fields: dict[str, Any]

    @staticmethod
    def load(folder: str | os.PathLike[str]) -> Manifest:
        path = Path(folder) / MANIFEST
        try:
            return Manifest(Path(folder), json.loads(path.read_text()))
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read ({error}): prepare the corpus again") from error

    @property
    def prefix(self) -> Path:
        return self.folder / str(self.fields["name"])

    @property
    def unigram_entropy(self) -> float:
        return float(self.fields["unigram_entropy"])

    def tokenizer(self) -> Tokenizer:
        return load_tokenizer(self.folder)


def prepare_corpus(
    spec: CorpusSpec, out_dir: str | os.PathLike[str], progress: Callable[..., None] | None = None
) -> Manifest:
    """Prepare `spec` into `out_dir`, unless it is there already."""
    folder = Path(out_dir)
    key = hashlib.sha256(json.dumps(asdict(spec)).encode()).hexdigest()
    if (folder / MANIFEST).is_file():
        manifest = Manifest.load(folder)
        if manifest.fields.get("spec") == key:
            return manifest
    counts = ReadCounts()

    def documents() -> Iterator[Document]:
        return read_documents(spec.sources, text_key=spec.text_key, on_error=spec.on_error)  # type: ignore[arg-type]

    if spec.tokenizer in KINDS:
        tokenizer = train_tokenizer(spec.tokenizer, documents(), spec.vocab_size, seed=spec.seed)  # type: ignore[arg-type]
    else:
        tokenizer = load_tokenizer(spec.tokenizer)
    save_tokenizer(tokenizer, folder)
    eod = tokenizer.eod_id if spec.append_eod else None
    prefix = folder / spec.name
    with ShardWriter(prefix, tokenizer.vocab_size, eod_id=eod) as writer:
        for batch in _encode(tokenizer, documents(), spec.workers):
            for ids in batch:
                writer.add_document(ids)
        occurrences = writer.counts
    shard = Shard(prefix)
    write_hashes(shard, hash_documents(shard.tokens, shard.document_offsets))
    fields = {
        "spec": key,
        "name": spec.name,
        "documents": shard.num_documents,
        "tokens": shard.num_tokens,
        "dtype": shard.dtype.name,
        "vocab_size": tokenizer.vocab_size,
        "tokenizer": tokenizer.fingerprint,
        "unigram_entropy": unigram_entropy(occurrences),
        "sha256": {p.name: sha256_of(p) for p in (bin_path(prefix), idx_path(prefix))},
    }
    del counts
    write_atomic(folder / MANIFEST, json.dumps(fields, indent=1).encode())
    return Manifest(folder, fields)


def _encode(
    tokenizer: Tokenizer, documents: Iterable[Document], workers: int | None
) -> Iterator[list[list[int]]]:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    processes = workers or len(os.sched_getaffinity(0))
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, _start, (tokenizer,)) as pool:
        yield from pool.imap(_work, _batches(documents))


def _batches(documents: Iterable[Document]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for document in documents:
        batch.append(document.text)
        size += len(document.text)
        if size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


_tokenizer: Tokenizer


def _start(tokenizer: Tokenizer) -> None:
    global _tokenizer
    _tokenizer = tokenizer


def _work(texts: list[str]) -> list[list[int]]:
    return _tokenizer.encode_batch(texts)
