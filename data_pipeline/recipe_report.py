"""The report of a recipe that was run, from what its tasks said."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc

from . import report as page
from .assemble import EncodedSource
from .manifest import Manifest
from .recipe import Recipe
from .refine import Refined
from .report.clusters import Chosen, Document
from .report.profile import Profile


def write_recipe_report(
    recipe: Recipe,
    refined: Refined,
    shards: Sequence[EncodedSource],
    manifest: Manifest,
    out: Path,
    wall_seconds: float,
    cpu_seconds: float,
) -> Path:
    """Write report.json and report.html into `out`; the page."""
    profile = Profile()
    for one in refined.profiles.values():
        profile.add(one)
    weights = {shard.name: shard.weight for shard in manifest.shards}
    return page.write_report(
        page.Report(
            recipe=recipe.deciding(),
            sources=tuple(page.SourceFacts.of(*read) for read in refined.read.items()),
            stages=tuple(page.StageFacts.of(*tally) for tally in refined.tallies.items()),
            languages=dict(profile.languages),
            lengths=profile.histogram(),
            clusters=tuple(_clusters(refined)),
            shards=tuple(
                page.ShardFacts(
                    one.name, one.documents, one.tokens, one.bytes, weights[one.name], one.splits
                )
                for one in shards
            ),
            tokenizer={
                "file": manifest.tokenizer_file,
                "vocabulary": manifest.vocab_size,
                "end of document": manifest.eod_id,
                "fingerprint": manifest.tokenizer_fingerprint[:16],
                "unigram entropy (nats)": round(manifest.unigram_entropy, 4),
            },
            versions=dict(manifest.versions),
            wall_seconds=wall_seconds,
            cpu_seconds=cpu_seconds,
            title=out.name,
        ),
        out,
    )


def _clusters(refined: Refined) -> list[page.Cluster]:
    """Of every stage that finds any."""
    found = []
    for compared in refined.compared.values():
        for shown in compared.facts.get("largest", ()):
            places = [tuple(place) for place in shown["rows"]]
            choice = Chosen(
                shown["size"],
                tuple(range(len(places))),
                tuple(shown["kept"]),
                tuple(shown["similarities"]),
            )
            documents = [_document(compared.documents, *place) for place in places]
            found.append(page.cluster(choice, documents.__getitem__))
    return found


def _document(files: Sequence[Path], part: int, row: int) -> Document:
    """A document by part and row; of an earlier corpus, whose texts are not kept, its place."""
    if part < 0:
        return Document("an earlier corpus", f"part {-part}, row {row}", "")
    with pa.memory_map(str(files[part])) as stream:
        reader: Any = pa.ipc.open_file(stream)
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            if row < len(batch):
                columns = (batch.column(name)[row].as_py() for name in ("source", "id", "text"))
                return Document(*columns)
            row -= len(batch)
    raise IndexError(f"{files[part]}: no row {row}")
