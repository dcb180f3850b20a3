"""Text to token shards: python tools/prepare_corpus.py [--config recipe.yaml] key=value ...

    python tools/prepare_corpus.py out=build/data/docs
    python tools/prepare_corpus.py out=build/data/mine sources='[text/*.jsonl.zst]' vocab_size=32000
    python tools/prepare_corpus.py --config recipe.yaml out=build/data/web workers=8

Keys are the fields of trivium.data_pipeline.recipe.Recipe, and `out`. Interrupted, the same command
goes on where it was.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields
from pathlib import Path

from trivium.data_pipeline.errors import InputError, fail_clean
from trivium.data_pipeline.manifest import Manifest
from trivium.data_pipeline.prepare import prepare_corpus
from trivium.data_pipeline.progress import progress_bars
from trivium.data_pipeline.recipe import Recipe

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # see command.py

from tools.command import read


@dataclass(frozen=True, kw_only=True)
class PrepareCorpus(Recipe):
    """A recipe and where to put what it makes."""

    out: str = ""  # folder

    def recipe(self) -> Recipe:
        """The recipe alone: where it goes is no part of what it is."""
        return Recipe(**{field.name: getattr(self, field.name) for field in fields(Recipe)})


def main() -> None:
    """Run the recipe that the command line names, and say what came of it."""
    asked = read(PrepareCorpus, __doc__)
    if not asked.out:
        raise InputError("out: name the folder to prepare the corpus in: out=build/data/mine")
    with progress_bars() as progress:
        manifest = prepare_corpus(asked.recipe(), asked.out, progress)
    _tell(manifest)


def _tell(manifest: Manifest) -> None:
    for shard in manifest.shards:
        print(
            f"{manifest.directory / shard.name}: {shard.documents:,} documents, "
            f"{shard.bytes:,} bytes of text, {shard.tokens:,} tokens "
            f"({shard.bytes / shard.tokens:.2f} bytes a token)"
            + (f", {shard.weight:.3f} of the blend" if len(manifest.shards) > 1 else "")
        )
    print(
        f"{manifest.directory}: {manifest.vocab_size:,} ids, unigram entropy "
        f"{manifest.unigram_entropy:.3f} nats"
        + (f", {manifest.skipped:,} records skipped (rejects.jsonl)" if manifest.skipped else "")
        + f"; see {manifest.directory / 'report.html'}"
    )


if __name__ == "__main__":
    sys.exit(fail_clean(main))
