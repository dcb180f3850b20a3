"""What is in a shard: python tools/inspect_shards.py shard=PATH [--config file.yaml] key=value ...

    python tools/inspect_shards.py shard=build/data/docs                 # a prepared folder
    python tools/inspect_shards.py shard=corpus_text_document            # any Megatron .bin/.idx
    python tools/inspect_shards.py shard=build/data/docs 'documents=[0, 17]' tokens=200

Prints sizes and document lengths, checks the checksums that a manifest records, and shows
documents: their ids, and their text where the tokenizer is known (from the manifest, or
`tokenizer=`).
"""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trivium.data_pipeline.errors import InputError, fail_clean
from trivium.data_pipeline.manifest import MANIFEST, Manifest, require_tokenizer
from trivium.data_pipeline.shards import Shard, unigram_entropy
from trivium.data_pipeline.tokenizer import Tokenizer, load_tokenizer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # see command.py

from tools.command import read


@dataclass(frozen=True, kw_only=True)
class InspectShards:
    """Which shard, and what of it to show."""

    shard: str = ""  # a prepared folder, or the common prefix of a .bin and .idx
    documents: tuple[int, ...] | None = None  # their numbers; else `samples` of them
    samples: int = 3  # documents drawn at random
    seed: int = 0  # of the drawing
    tokens: int = 80  # of each document, from its beginning
    tokenizer: str | None = None  # file or folder; else the manifest's
    every_byte: bool = True  # check whole files against the manifest, not sizes alone

    def __post_init__(self) -> None:
        if not self.shard:
            raise InputError("shard: name a prepared folder or the prefix of a .bin and .idx")
        for name in ("samples", "tokens"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} {getattr(self, name)}: 0 or more")


def inspect(asked: InspectShards) -> None:
    """Print what was asked for."""
    path = Path(asked.shard)
    path = path.with_suffix("") if path.suffix in (".bin", ".idx") else path
    if path.is_dir() or path.name == MANIFEST:
        manifest: Manifest | None = Manifest.load(path)
    else:
        manifest = Manifest.find(path)
    if manifest is None:
        print("no manifest: checksums and tokenizer are not recorded")
    else:
        manifest.check(every_byte=asked.every_byte)
        how = "checksums" if asked.every_byte else "sizes"
        print(f"{how} of {len(manifest.files)} files are those of {path}'s manifest")
    whole = manifest is not None and not manifest.holds(path.name)
    prefixes = [prefix for prefix, _ in manifest.blend] if manifest and whole else [path]
    for prefix in prefixes:
        shard = Shard(prefix)
        _tell_sizes(shard)
        tokenizer = _tokenizer(asked, manifest, shard)
        for number in _chosen(asked, shard):
            _show(shard, number, asked.tokens, tokenizer)


def _tell_sizes(shard: Shard) -> None:
    lengths = np.diff(shard.document_offsets)
    print(
        f"{shard.prefix}: {shard.num_documents:,} documents, {shard.num_tokens:,} tokens of "
        f"{shard.dtype.name}"
    )
    if not shard.num_tokens:
        return
    shares = np.percentile(lengths, [0, 25, 50, 75, 99, 100]).astype(int)
    named = zip(("least", "25 %", "median", "75 %", "99 %", "most"), shares, strict=True)
    print("tokens a document: " + ", ".join(f"{name} {value:,}" for name, value in named))
    counts = shard.token_counts()
    print(
        f"ids: {np.count_nonzero(counts):,} different, largest {len(counts) - 1:,}, "
        f"unigram entropy {unigram_entropy(counts):.4f} nats"
    )


def _tokenizer(asked: InspectShards, manifest: Manifest | None, shard: Shard) -> Tokenizer | None:
    if asked.tokenizer is not None:
        tokenizer = load_tokenizer(asked.tokenizer)
        require_tokenizer(shard.prefix, tokenizer)
        return tokenizer
    return None if manifest is None else manifest.tokenizer()


def _chosen(asked: InspectShards, shard: Shard) -> list[int]:
    if asked.documents is None:
        count = min(asked.samples, shard.num_documents)
        return sorted(random.Random(asked.seed).sample(range(shard.num_documents), count))
    for number in asked.documents:
        if not 0 <= number < shard.num_documents:
            raise InputError(
                f"documents: {number} is not one of {shard.prefix}; "
                f"it has 0 to {shard.num_documents - 1}"
            )
    return list(asked.documents)


def _show(shard: Shard, number: int, tokens: int, tokenizer: Tokenizer | None) -> None:
    ids = shard.document(number)
    shown = [int(token) for token in ids[:tokens]]
    more = f" ... {len(ids) - len(shown):,} more" if len(ids) > len(shown) else ""
    print(f"\ndocument {number}, {len(ids):,} tokens")
    print(f"  ids   {' '.join(map(str, shown))}{more}")
    if tokenizer is not None:
        print(f"  text  {tokenizer.decode(shown)!r}")


def main() -> None:
    """Inspect the shard that the command line names."""
    inspect(read(InspectShards, __doc__))


if __name__ == "__main__":
    sys.exit(fail_clean(main))
