"""From sources to the documents worth training on: a recipe's stages over parts of a corpus.

The documents of a part go through the stages in one task (`tasks.py`), a batch at a time, into one
Arrow file. A stage over the whole corpus (`dedup/whole.py`) ends a segment: the parts are sketched
as they are written, the sketches are compared, and the next segment begins by carrying out what was
found. No task holds more than a batch of documents or one range of entries, and every task is done
once, whoever is killed and when.

    cut/00003              a file larger than a part, in pieces
    00-documents/00000..   part 0 after the first segment: documents.arrow, rejects.jsonl, sketch/
    00-exact_duplicates/   what was found among all parts; drops/00000.npy is for part 0
    00-index/00000         what a later corpus is compared with, where that is asked for
    01-documents/00000..   and so on
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .config_tree import to_dict
from .dedup.whole import Sketches, Whole
from .index import open_index
from .parts import REJECTS, ArrowWriter, Part, cutting, pieces, plan_parts, stored_batches
from .readers import Counts
from .recipe import Recipe, Source, StageChoice
from .report import Profile
from .stages.stage import Stage
from .stages.tally import Tally, run_stages, text_bytes
from .tasks import Facts, Runner, Task, read_facts

DOCUMENTS = "documents.arrow"
INDEX = "index"
_SKETCH = "sketch"


@dataclass(frozen=True)
class Compared:
    """What a stage over the corpus found, and over which documents."""

    facts: Facts
    documents: list[Path]  # Arrow files, one a part
    index: list[Path]  # what later corpora are compared with, one folder a part
    stage: dict[str, Any]  # its parameters


@dataclass(frozen=True)
class Refined:
    """What came of a recipe's stages."""

    parts: list[Part]  # in the order of the corpus
    files: list[Path]  # Arrow, of each part
    sizes: list[int]  # bytes of text of each part
    tallies: dict[str, Tally]  # of every stage, in the recipe's order
    read: dict[str, Counts]  # of every source
    rejects: list[Path]  # JSON lines, in the order of the corpus
    profiles: dict[str, Profile]  # languages and lengths of every source, at the end
    compared: dict[str, Compared]  # of every stage over the corpus


def refine(
    recipe: Recipe,
    folder: Path,
    run: Runner | None = None,
    *,
    part_bytes: int = 0,
) -> Refined:
    """Run the stages of `recipe`; `folder` holds the work and, in the end, the documents.

    Run again after an interruption, it goes on; another recipe, other files or another
    `part_bytes` (0: the recipe's) need another folder.
    """
    part_bytes = part_bytes or recipe.part_bytes or 64 << 20
    run = run or Runner()
    earlier = [Path(path) / INDEX for path in recipe.earlier]
    parts, counts, rejects = _cut(run, plan_parts(recipe, part_bytes), part_bytes, folder / "cut")
    labelled = label_stages(recipe.stages)
    segments = _segments(labelled)
    inputs: list[dict[str, Any]] = [{"part": part} for part in parts]
    facts: list[list[Facts]] = []
    compared: dict[str, Compared] = {}
    last: Labelled | None = None
    outputs: list[Path] = []
    if not labelled and all(part.piece and not part.source.stages for part in parts):
        return _as_read(recipe, parts, counts, rejects)
    for number, (stages, whole) in enumerate(segments):
        outputs = [folder / f"{number:02d}-documents" / f"{p:05d}" for p in range(len(parts))]
        settings = {"stages": stages, "whole": whole, "last": last}
        tasks = [
            Task(output, refine_part, {**given, **settings}, part.size)
            for output, given, part in zip(outputs, inputs, parts, strict=True)
        ]
        names = [label for label, _ in [last or ("", None), *stages] if label]
        facts.append(run(tasks, ", ".join(names) or "reading"))
        if whole is not None:
            place = folder / f"{number:02d}-{whole[0].replace(' ', '-')}"
            compared[whole[0]] = _compare(
                run, place, whole, outputs, facts[-1], earlier, recipe.keep_index
            )
            drops = place / "drops"
            inputs = [
                {"part": None, "documents": str(output), "decided": str(drops / f"{p:05d}.npy")}
                for p, output in enumerate(outputs)
            ]
        last = whole
    for part, output, fact in zip(parts, outputs, facts[0], strict=True):
        _add_counts(counts.setdefault(part.source.name, Counts()), fact["read"])
        if not part.piece:
            rejects.append(folder / "00-documents" / output.name / REJECTS)
    return Refined(
        parts,
        [output / DOCUMENTS for output in outputs],
        [int(fact["bytes"]) for fact in facts[-1]],
        _add_tallies(recipe, facts, compared),
        counts,
        rejects,
        _add_profiles(parts, facts[-1]),
        compared,
    )


def _as_read(
    recipe: Recipe, parts: list[Part], counts: dict[str, Counts], rejects: list[Path]
) -> Refined:
    """Of a recipe without stages, where every file was cut: its pieces are the documents."""
    files = [Path(part.piece) for part in parts]
    profiles = [{"profile": read_facts(file.parent)["profiles"][file.name]} for file in files]
    sizes = [part.size for part in parts]
    tallies = _add_tallies(recipe, [], {})
    return Refined(
        parts, files, sizes, tallies, counts, rejects, _add_profiles(parts, profiles), {}
    )


Labelled = tuple[str, Any]  # (name in reports, Stage or Whole)


def label_stages(stages: Sequence[StageChoice]) -> list[Labelled]:
    """A stage is called by its name; one that was there before also by how often."""
    labels: list[Labelled] = []
    for number, choice in enumerate(stages):
        before = sum(other.name == choice.name for other in stages[:number])
        label = choice.name if not before else f"{choice.name} ({before + 1})"
        labels.append((label, choice.value))
    return labels


def label_source(source: Source) -> list[Labelled]:
    """The stages of one source, by its name and theirs."""
    return [(f"{source.name}: {label}", stage) for label, stage in label_stages(source.stages)]


def _segments(stages: Sequence[Labelled]) -> list[tuple[list[Labelled], Labelled | None]]:
    """(stages of documents, the stage over the corpus that ends them) ..., (stages, None)."""
    segments: list[tuple[list[Labelled], Labelled | None]] = []
    current: list[Labelled] = []
    for label, stage in stages:
        if isinstance(stage, Whole):
            segments.append((current, (label, stage)))
            current = []
        else:
            current.append((label, stage))
    return [*segments, (current, None)]


def _cut(
    run: Runner, parts: Sequence[Part], part_bytes: int, folder: Path
) -> tuple[list[Part], dict[str, Counts], list[Path]]:
    """The parts with large files cut, what reading those met, and their rejects."""
    asked = cutting(parts, part_bytes, folder)
    facts = iter(run([task for task in asked if task is not None], "reading"))
    every: list[Part] = []
    counts: dict[str, Counts] = {}
    rejects: list[Path] = []
    for part, task in zip(parts, asked, strict=True):
        if task is None:
            every.append(part)
            continue
        found = next(facts)
        every += pieces(part, task.output, found)
        _add_counts(counts.setdefault(part.source.name, Counts()), found["read"])
        rejects.append(task.output / REJECTS)
    return every, counts, rejects


def _compare(
    run: Runner,
    place: Path,
    whole: Labelled,
    outputs: Sequence[Path],
    facts: Sequence[Facts],
    earlier: Sequence[Path],
    keep_index: bool,
) -> Compared:
    """Find duplicates among all parts and earlier corpora; keep the index of this one."""
    label, stage = whole
    before, known = _earlier(earlier, label, stage)
    sketches = Sketches(
        (*before, *(output / _SKETCH for output in outputs)),
        len(before),
        known + sum(fact["entries"] for fact in facts),
    )
    before_it = run.cpu_seconds
    found: Facts = stage.resolve(sketches, place, lambda tasks: run(tasks, label))
    found["seconds"] = run.cpu_seconds - before_it + sum(fact["sketching"] for fact in facts)
    index = []
    if keep_index:
        index = [place.with_name(place.name + "-index") / output.name for output in outputs]
        tasks = [
            Task(
                kept,
                keep_part,
                {
                    "stage": stage,
                    "sketch": str(output / _SKETCH),
                    "decided": str(place / "drops" / f"{output.name}.npy"),
                },
                int(fact["bytes"]),
            )
            for kept, output, fact in zip(index, outputs, facts, strict=True)
        ]
        run(tasks, f"index of {label}")
    documents = [output / DOCUMENTS for output in outputs]
    return Compared(found, documents, index, to_dict(stage))


def _earlier(indexes: Sequence[Path], label: str, stage: Whole) -> tuple[list[Path], int]:
    """The sketches of earlier corpora for a stage, and how many entries they have."""
    folders: list[Path] = []
    entries = 0
    for index in indexes:
        found = open_index(index, label, to_dict(stage))
        folders += found.folders
        entries += found.entries
    return folders, entries


# --- Tasks: functions of a module, so that any process can do them -------------


def refine_part(
    folder: Path,
    *,
    part: Part | None,
    stages: Sequence[Labelled],
    whole: Labelled | None,
    last: Labelled | None,
    documents: str = "",
    decided: str = "",
) -> Facts:
    """The documents of a part after a segment, and their sketch for the stage that ends it."""
    run: list[tuple[str, Stage]] = list(stages)
    counts = Counts()
    if part is not None:
        run = [*label_source(part.source), *run]
        batches = part.read(counts, folder / REJECTS)
    else:
        assert last is not None
        run.insert(0, (last[0], last[1].stage(Path(decided))))
        batches = stored_batches(Path(documents) / DOCUMENTS)
    tallies: dict[str, Tally] = {name: Tally() for name, _ in run}
    facts: Facts = {"documents": 0, "bytes": 0, "entries": 0, "sketching": 0.0}
    profile = Profile()
    sink = ArrowWriter(folder / DOCUMENTS)
    sketch = whole[1].sketch(folder / _SKETCH) if whole is not None else None
    for batch in batches:
        kept, told = run_stages(batch, run)
        for name, tally in told.items():
            tallies[name].add(tally)
        if not len(kept):
            continue
        kept = kept.combine_chunks()
        if sketch is not None:
            began = time.process_time()
            sketch.add(kept)
            facts["sketching"] += time.process_time() - began
        else:
            profile.add(Profile.of(kept))
        sink.write(kept)
        facts["documents"] += len(kept)
        facts["bytes"] += text_bytes(kept)
    sink.close()
    if sketch is not None:
        sketch.close()
        facts["entries"] = sketch.entries
    return {
        **facts,
        "read": vars(counts),
        "tallies": {name: tally.to_json() for name, tally in tallies.items()},
        "profile": profile.to_json(),
    }


def keep_part(folder: Path, *, stage: Whole, sketch: str, decided: str) -> Facts:
    """What later corpora compare with a part."""
    return {"entries": stage.keep(Path(sketch), Path(decided), folder)}


# --- Sums over tasks -----------------------------------------------------------


def _add_tallies(
    recipe: Recipe, facts: Sequence[Sequence[Facts]], compared: Mapping[str, Compared]
) -> dict[str, Tally]:
    labelled = [pair for source in recipe.named_sources for pair in label_source(source)]
    total = {label: Tally() for label, _ in [*labelled, *label_stages(recipe.stages)]}
    for segment in facts:
        for fact in segment:
            for name, tally in fact["tallies"].items():
                total[name].add(Tally.from_json(tally))
    for name, found in compared.items():
        total[name].seconds += found.facts["seconds"]
    return total


def _add_counts(total: Counts, read: Mapping[str, Any]) -> None:
    for name, value in read.items():
        setattr(total, name, getattr(total, name) + value)
    del total.first_problems[10:]


def _add_profiles(parts: Sequence[Part], facts: Sequence[Facts]) -> dict[str, Profile]:
    total: dict[str, Profile] = {}
    for part, fact in zip(parts, facts, strict=True):
        total.setdefault(part.source.name, Profile()).add(Profile.from_json(fact["profile"]))
    return total
