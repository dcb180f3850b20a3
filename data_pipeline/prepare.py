"""A corpus on disk, made once: a recipe in; shards, tokenizer, manifest and report out.

The work is tasks over parts (`refine.py`, `assemble.py`) in ``<out>/.work``, each of them whole or
not there; killed at any time and started again, a run goes on where it was. The results are put in
place when all are whole, the manifest last: that it is there means all of it is.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from .assemble import EncodedSource, encode, sample_text
from .documents import Document
from .errors import InputError
from .executors import executor_for
from .files import (
    appearing,
    exclusive,
    link_file,
    sha256_of,
    storage_errors,
    sync_path,
    write_atomic,
)
from .index import write_index
from .manifest import MANIFEST, Manifest, ShardFacts
from .parts import describe_files
from .progress import Progress
from .recipe import Recipe, Source
from .recipe_report import write_recipe_report
from .refine import INDEX, Refined, refine
from .shards import unigram_entropy
from .tasks import Runner
from .tokenizer import Tokenizer, load_tokenizer
from .tokenizer_training import KINDS, save_tokenizer, train_tokenizer
from .workers import default_workers

__all__ = ["Manifest", "prepare_corpus"]

REJECTS = "rejects.jsonl"
_PLAN = "plan.json"
_MOST, _LEAST = 64 << 20, 4 << 20  # bytes of a part, where the recipe leaves it open


def prepare_corpus(
    recipe: Recipe, out_dir: str | os.PathLike[str], progress: Progress | None = None
) -> Manifest:
    """Prepare ``recipe`` in ``out_dir``, or return at once what is already there and still fits.

    It fits if the recipe, the listing of the files behind it (names, sizes, times), the tokenizer
    and the earlier corpora are those it was made from. Processes of one machine that ask at the
    same time wait for the first one.
    """
    out = Path(out_dir)
    with exclusive(out / ".lock"):
        given = None if recipe.trains_tokenizer else _given_tokenizer(recipe.tokenizer)
        inputs, size = _inputs(recipe, given)
        manifest = _ready(out, inputs)
        if manifest is None:
            with executor_for(recipe.executor, recipe.workers) as executor:
                run = Runner(executor, progress)
                manifest = _prepare(recipe, given, inputs, size, out, run)
        if not recipe.keep_work:
            shutil.rmtree(out / ".work", ignore_errors=True)
        return manifest


def _prepare(
    recipe: Recipe, given: Tokenizer | None, inputs: str, size: int, out: Path, run: Runner
) -> Manifest:
    began = time.monotonic()
    work = out / ".work" / inputs[:16]
    with storage_errors(work):
        for other in (out / ".work").glob("*"):
            if other != work:  # of another recipe, or of files that have changed
                shutil.rmtree(other, ignore_errors=True)
        work.mkdir(parents=True, exist_ok=True)
    refined = refine(recipe, work, run, part_bytes=_planned(recipe, size, work))
    _require_documents(recipe, refined)
    tokenizer = _tokenizer(recipe, given, refined, work, run)
    names = [part.source.name for part in refined.parts]
    shards = encode(
        run,
        names,
        refined.files,
        refined.sizes,
        tokenizer,
        recipe.append_eod,
        recipe.fast_encoder,
        work,
    )
    manifest = _manifest(recipe, inputs, refined, tokenizer, shards, out)
    _put_in_place(manifest, refined, shards, work, out)
    write_recipe_report(
        recipe, refined, shards, manifest, out, time.monotonic() - began, run.cpu_seconds
    )
    manifest.write()
    return manifest


# --- What the result depends on ------------------------------------------------


def _inputs(recipe: Recipe, tokenizer: Tokenizer | None) -> tuple[str, int]:
    """Hex sha256 of all that decides the result, and bytes of the files to read."""
    listing = [describe_files(source.paths) for source in recipe.named_sources]
    decides: dict[str, Any] = {
        "recipe": recipe.deciding(),
        "files": listing,
        "lists": [
            [path, sha256_of(Path(path)) if Path(path).is_file() else describe_files([path])]
            for choice in recipe.stages
            for path in getattr(choice.value, "reads", ())
        ],
        "earlier": [sha256_of(_manifest_of(folder)) for folder in recipe.earlier],
    }
    if tokenizer is not None:
        decides["tokenizer"] = tokenizer.fingerprint
    canonical = json.dumps(decides, sort_keys=True).encode()
    return hashlib.sha256(canonical).hexdigest(), sum(file[1] for one in listing for file in one)


def _given_tokenizer(name: str) -> Tokenizer:
    try:
        return load_tokenizer(name)
    except InputError as error:
        if Path(name).exists():
            raise
        near = difflib.get_close_matches(name, KINDS, 1)
        hint = f"did you mean {near[0]}?" if near else f"to train one: {', '.join(KINDS)}"
        raise InputError(f"tokenizer: {error}; {hint}") from None


def _manifest_of(folder: str) -> Path:
    if not Path(folder).is_dir():
        raise InputError(f"earlier: {folder}: no such folder; name that of a prepared corpus")
    Manifest.load(folder)  # says what is wrong with it
    return Path(folder) / MANIFEST


def _ready(out: Path, inputs: str) -> Manifest | None:
    try:
        manifest = Manifest.load(out)
    except InputError:
        return None
    return manifest if manifest.spec_hash == inputs else None


def _planned(recipe: Recipe, size: int, work: Path) -> int:
    """Bytes of a part. What is begun keeps its parts, whoever goes on with it."""
    plan = work / _PLAN
    if not plan.is_file():
        workers = recipe.workers or default_workers()
        even = min(_MOST, max(_LEAST, size // (4 * workers)))
        write_atomic(plan, json.dumps({"part_bytes": recipe.part_bytes or even}).encode())
    return int(json.loads(plan.read_text())["part_bytes"])


def _require_documents(recipe: Recipe, refined: Refined) -> None:
    if any(refined.sizes):
        return
    counts = list(refined.read.values())
    problems = [problem for one in counts for problem in one.first_problems]
    read = sum(one.documents for one in counts)
    dropped = {name: sum(one.dropped.values()) for name, one in refined.tallies.items()}
    most = max(dropped, key=lambda name: dropped[name], default="")
    paths = ", ".join(path for source in recipe.named_sources for path in source.paths)
    raise InputError(
        f"{paths if len(paths) <= 300 else paths[:300] + ' ...'}: no "
        f"document with text in it ({read} read, {sum(one.empty for one in counts)} empty, "
        f"{sum(one.skipped for one in counts)} skipped"
        + (f", {sum(dropped.values())} dropped, most by {most}" if any(dropped.values()) else "")
        + (f", the first: {problems[0]}" if problems else "")
        + "): check sources, text_key and stages"
    )


# --- Tokenizer -----------------------------------------------------------------


def _tokenizer(
    recipe: Recipe, given: Tokenizer | None, refined: Refined, work: Path, run: Runner
) -> Tokenizer:
    """The tokenizer of the recipe, its files in `work`/tokenizer."""
    folder = work / "tokenizer"
    if (folder / "done").is_file():
        return given or load_tokenizer(folder)
    if given is not None:
        tokenizer = given
    else:
        documents = [
            Document(text, "", "")
            for source, budget in _budgets(recipe, refined)
            for text in _sample(recipe, refined, source, budget, folder, run)
        ]
        tokenizer = train_tokenizer(
            recipe.tokenizer,  # type: ignore[arg-type]  # just checked
            documents,
            recipe.vocab_size,
            seed=recipe.seed,
            max_bytes=recipe.tokenizer_bytes,
        )
    save_tokenizer(tokenizer, folder)
    write_atomic(folder / "done", b"")
    return tokenizer


def _budgets(recipe: Recipe, refined: Refined) -> list[tuple[Source, int]]:
    """Bytes that each source gives to the sample: as in the blend, by bytes instead of tokens."""
    sizes = dict.fromkeys((source.name for source in recipe.named_sources), 0)
    for part, size in zip(refined.parts, refined.sizes, strict=True):
        sizes[part.source.name] += size
    shares = blend_shares(recipe, sizes)
    return [
        (source, int(recipe.tokenizer_bytes * shares[source.name]))
        for source in recipe.named_sources
    ]


def _sample(
    recipe: Recipe, refined: Refined, source: Source, budget: int, folder: Path, run: Runner
) -> list[str]:
    mine = [n for n, part in enumerate(refined.parts) if part.source.name == source.name]
    return sample_text(
        run,
        [refined.files[number] for number in mine],
        [refined.sizes[number] for number in mine],
        budget,
        recipe.seed,
        folder / f"sample-{source.name}",
    )


def blend_shares(recipe: Recipe, sizes: dict[str, int]) -> dict[str, float]:
    """Share of every source, adding to 1: by weights, else by sizes, epochs and temperature.

    sizes: tokens or bytes of each source. One without any has no share.
    """
    weights = {
        source.name: 0.0
        if not sizes[source.name]
        else source.weight
        if source.weight is not None
        else source.epochs * sizes[source.name] ** (1 / recipe.temperature)
        for source in recipe.named_sources
    }
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


# --- Results -------------------------------------------------------------------


def _manifest(
    recipe: Recipe,
    inputs: str,
    refined: Refined,
    tokenizer: Tokenizer,
    shards: Sequence[EncodedSource],
    out: Path,
) -> Manifest:
    sizes = dict.fromkeys((source.name for source in recipe.named_sources), 0)
    sizes.update({shard.name: shard.tokens for shard in shards})
    shares = blend_shares(recipe, sizes)
    blended = sum(
        (shares[one.name] * one.counts / one.tokens for one in shards),
        np.zeros(tokenizer.vocab_size),
    )
    files: dict[str, Any] = {}
    for shard in shards:
        files.update(shard.files)
    for name, content in tokenizer.files().items():
        files[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return Manifest(
        directory=out,
        shards=tuple(
            ShardFacts(
                name=one.name,
                documents=one.documents,
                tokens=one.tokens,
                bytes=one.bytes,
                weight=shares[one.name],
            )
            for one in shards
        ),
        skipped=sum(counts.skipped for counts in refined.read.values()),
        dtype=shards[0].dtype,
        vocab_size=tokenizer.vocab_size,
        eod_id=tokenizer.eod_id,
        tokenizer_file=next(iter(tokenizer.files())),
        tokenizer_fingerprint=tokenizer.fingerprint,
        unigram_entropy=unigram_entropy(blended),
        files=files,
        spec=recipe.deciding(),
        spec_hash=inputs,
        versions={
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in ("numpy", "tokenizers", "sentencepiece")},
        },
    )


def _put_in_place(
    manifest: Manifest, refined: Refined, shards: Sequence[EncodedSource], work: Path, out: Path
) -> None:
    """Everything but the manifest and the report; the work stays whole until both are there."""
    with storage_errors(out):
        stale = _files_before(out) - set(manifest.files)
        (out / MANIFEST).unlink(missing_ok=True)
        sync_path(out)
        for name in stale:
            (out / name).unlink(missing_ok=True)
        shutil.rmtree(out / INDEX, ignore_errors=True)
        for shard in shards:
            for name in shard.files:
                link_file(shard.folder / name, out / name)
        for name in set(manifest.files) - {name for shard in shards for name in shard.files}:
            link_file(work / "tokenizer" / name, out / name)
        for label, compared in refined.compared.items():
            if compared.index:
                write_index(out / INDEX, label, compared.stage, compared.index)
        (out / REJECTS).unlink(missing_ok=True)
        rejects = [file for file in refined.rejects if file.is_file() and file.stat().st_size]
        if rejects:
            with appearing(out / REJECTS) as every:
                for file in rejects:
                    with open(file, "rb") as stream:
                        shutil.copyfileobj(stream, every)
        sync_path(out)


def _files_before(out: Path) -> set[str]:
    """What an earlier manifest, whole or not, says is its own."""
    try:
        content = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
        return {name for name in content["files"] if Path(name).name == name}
    except (OSError, ValueError, KeyError, TypeError):
        return set()
