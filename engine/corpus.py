"""The data of a run: prepared once by rank 0, opened and checked by every rank.

A run names a corpus to prepare or shards that exist; both end as a tokenizer and sample streams.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trivium.data_pipeline.manifest import require_tokenizer
from trivium.data_pipeline.prepare import Manifest, prepare_corpus
from trivium.data_pipeline.progress import progress_bars
from trivium.data_pipeline.recipe import Recipe, Source
from trivium.data_pipeline.samples import PackedSamples, resolve_blend
from trivium.data_pipeline.tokenizer import Tokenizer, load_tokenizer
from trivium.engine.agreement import everywhere, on_first
from trivium.engine.hf.folder import has_tokenizer
from trivium.engine.schema import DataConfig, RunConfig


@dataclass(frozen=True)
class Corpus:
    """What a run reads."""

    tokenizer: Tokenizer
    train: PackedSamples
    validation: PackedSamples | None
    unigram_entropy: float | None  # nats per token: the loss of knowing only frequencies


def open_corpus(config: RunConfig) -> Corpus:
    """Prepare where needed, open, and check against each other. Collective over the world."""
    on_first(lambda: _prepare(config.data))
    return everywhere(lambda: _open(config))


def recipe_of(data: DataConfig) -> Recipe:
    """What `tools/prepare_corpus.py` would be told to prepare for this run."""
    assert data.corpus is not None
    source = Source(name="corpus", paths=data.corpus, text_key=data.text_key, on_error="fail")
    return Recipe(
        sources=(source,),
        tokenizer=data.tokenizer,
        vocab_size=data.vocab_size,
    )


def tokenizer_of(data: DataConfig, checkpoint: Path | None = None) -> Tokenizer:
    """The tokenizer of a run that has been prepared: its checkpoint's own, or where its data is."""
    if checkpoint is not None and has_tokenizer(checkpoint):
        return load_tokenizer(checkpoint)
    if data.corpus is not None and data.dir is not None:
        return Manifest.load(data.dir).tokenizer()
    return load_tokenizer(data.tokenizer)


def _prepare(data: DataConfig) -> None:
    if data.corpus is not None:
        assert data.dir is not None
        with progress_bars() as progress:
            prepare_corpus(recipe_of(data), data.dir, progress)


def _open(config: RunConfig) -> Corpus:
    data = config.data
    manifest: Manifest | None = None
    if data.corpus is not None:
        assert data.dir is not None
        manifest = Manifest.load(data.dir)
        blend = manifest.blend
        tokenizer = manifest.tokenizer()
    else:
        assert data.shards is not None
        blend = [
            shard for path, share in data.shards.items() for shard in resolve_blend(path, share)
        ]
        tokenizer = load_tokenizer(data.tokenizer)
        for prefix, _ in blend:
            require_tokenizer(prefix, tokenizer)

    def samples(split: str) -> PackedSamples:
        return PackedSamples(
            blend,
            data.sequence_length,
            config.seed,
            split,
            data.split,
            document_mask=data.document_mask,
        )

    validate = config.validation.batches > 0 and data.split[1] > 0
    train = samples("train")
    return Corpus(
        tokenizer=tokenizer,
        train=train,
        validation=samples("validation") if validate else None,
        unigram_entropy=manifest.unigram_entropy if manifest else train.unigram_entropy,
    )
