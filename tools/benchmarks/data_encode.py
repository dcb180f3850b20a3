"""JSON lines to a shard: CPU and wall seconds of `prepare_corpus` against Megatron's preprocessing.

    python -m tools.benchmarks.data_encode sources='[text/]' tokenizer=path/to/tokenizer.json

The text of the sources is written as one file of JSON lines, as much as `megabytes` says; where
the sources hold less, it is repeated with words exchanged. Each side runs in a process of its own,
all of it counted (start, imports, files), in turns A B C C B A; both files must be the same bytes.
Ours runs with gigatoken, with the table of words, and with the tokenizer's own library alone.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from trivium.data_pipeline.config_tree import load
from trivium.data_pipeline.documents import read_documents
from trivium.data_pipeline.errors import InputError, fail_clean
from trivium.data_pipeline.prepare import prepare_corpus
from trivium.data_pipeline.recipe import Recipe, Source
from trivium.data_pipeline.tokenizer import JsonTokenizer, load_tokenizer
from trivium.data_pipeline.tokenizer_training import save_tokenizer

PEER = "megatron"
SIDES = ("gigatoken", "words", "off", PEER)
SHARD = "corpus"


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What is measured."""

    sources: tuple[str, ...] = ()  # as in a recipe
    tokenizer: str = ""  # a tokenizer.json, or a folder with one
    megabytes: int = 100  # of text
    workers: int = 1
    rounds: int = 1  # each of them there and back
    sides: tuple[str, ...] = SIDES


def write_lines(sources: tuple[str, ...], megabytes: float, path: Path) -> tuple[int, int]:
    """Documents as JSON lines, and how many and how many bytes of text they are."""
    left = number = int(megabytes * 1e6)
    documents = size = 0
    with open(path, "w", encoding="utf-8") as stream:
        for text in _texts(sources):
            stream.write(json.dumps({"text": text, "id": documents}, ensure_ascii=False) + "\n")
            documents += 1
            taken = len(text.encode())
            size, left = size + taken, left - taken
            if left <= 0:
                return documents, size
    raise InputError(f"{sources}: no text to make {number} bytes of")


def _texts(sources: tuple[str, ...]) -> Iterator[str]:
    for again in count():
        chance = random.Random(again)
        words: list[str] = []
        nothing = True
        for document in read_documents(sources):
            nothing = False
            text = document.text
            if again:  # every tenth word or so becomes one that came before
                pieces = text.split(" ")
                for at in range(chance.randrange(10), len(pieces), 10):
                    words.append(pieces[at])
                    pieces[at] = words[chance.randrange(max(0, len(words) - 5000), len(words))]
                text = " ".join(pieces)
            yield text
        if nothing:
            return


def run(side: str, lines: Path, tokenizer: Path, out: Path, workers: int) -> dict[str, float]:
    """Make a shard in a process of its own; its wall and CPU seconds, with its children's."""
    module = "megatron_preprocess" if side == PEER else "data_encode"
    command = [sys.executable, "-m", f"tools.benchmarks.{module}"]
    if side == PEER:
        command += [str(lines), str(tokenizer), str(out / SHARD), str(workers)]
    else:
        command += ["--ours", side, str(lines), str(tokenizer), str(out), str(workers)]
    out.mkdir(parents=True)
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise InputError(f"{side} failed: {done.stderr.strip().splitlines()[-1:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"cpu": cpu, "wall": wall}


def ours(side: str, lines: str, tokenizer: str, out: str, workers: str) -> None:
    """`prepare_corpus` with one encoder: what a process of this benchmark does."""
    if side == "words":
        sys.modules["gigatoken"] = None  # type: ignore[assignment]  # as if it were not installed
    recipe = Recipe(
        sources=(Source(name=SHARD, paths=(lines,)),),
        tokenizer=tokenizer,
        workers=int(workers),
        fast_encoder="off" if side == "off" else "on",
    )
    prepare_corpus(recipe, out)


def compare(work: Workload) -> dict[str, Any]:
    """Least seconds of each side, MB of text a second, and how many times faster than the peer.

    Keys: `megabytes`, `documents`; `seconds` and `mb_per_second` by side, `ratios` to the peer's
    seconds by side (each with `cpu` and `wall`); `equal`, whether .bin and .idx are the peer's.
    """
    tokenizer = load_tokenizer(work.tokenizer)
    if not isinstance(tokenizer, JsonTokenizer):
        raise InputError(f"{work.tokenizer}: the peer reads a tokenizer.json: give one")
    if unknown := set(work.sides) - set(SIDES):
        raise InputError(f"sides {sorted(unknown)}: known are {', '.join(SIDES)}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        save_tokenizer(tokenizer, folder / "tokenizer")
        documents, size = write_lines(work.sources, work.megabytes, folder / "corpus.jsonl")
        seconds = {side: {"cpu": float("inf"), "wall": float("inf")} for side in work.sides}
        for turn, side in enumerate((*work.sides, *reversed(work.sides)) * work.rounds):
            out = folder / f"{turn}-{side}"
            taken = run(side, folder / "corpus.jsonl", folder / "tokenizer", out, work.workers)
            seconds[side] = {k: min(v, taken[k]) for k, v in seconds[side].items()}
        made = {side: folder / f"{at}-{side}" for at, side in enumerate(work.sides)}
        return {
            "megabytes": size / 1e6,
            "documents": documents,
            "seconds": seconds,
            "mb_per_second": {
                side: {k: size / 1e6 / v for k, v in taken.items()}
                for side, taken in seconds.items()
            },
            "ratios": {
                side: {k: seconds[PEER][k] / v for k, v in taken.items()}
                for side, taken in seconds.items()
                if PEER in seconds and side != PEER
            },
            "equal": {
                side: all(
                    (out / name).read_bytes() == (made[PEER] / name).read_bytes()
                    for name in (f"{SHARD}.bin", f"{SHARD}.idx")
                )
                for side, out in made.items()
                if PEER in made and side != PEER
            },
        }


def main() -> None:
    """Compare on what the command line names, and print the figures as JSON."""
    if sys.argv[1:2] == ["--ours"]:
        return ours(*sys.argv[2:])
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    print(json.dumps(compare(load(Workload, None, parser.parse_args().overrides)), indent=1))
    return None


if __name__ == "__main__":
    sys.exit(fail_clean(main))
