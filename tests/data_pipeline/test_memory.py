"""Memory of duplicate removal is bounded by its parts, not by the corpus."""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numba")

from trivium.data_pipeline.config_tree import load
from trivium.data_pipeline.recipe import Recipe
from trivium.data_pipeline.refine import refine

STAGES = "[exact_duplicates, paragraph_duplicates: {unit: line}, near_duplicates]"


def write(path: Path, megabytes: int) -> None:
    """Lines of prose: three fifths different, a fifth with few edits, a fifth as they were."""
    chance = random.Random(megabytes)
    words = ["".join(chance.choices("etaoinshrdlu", k=chance.randint(2, 9))) for _ in range(30000)]
    known = [chance.choices(words, k=400) for _ in range(2000 * megabytes // 10)]
    size = 0
    with open(path, "w") as stream:
        while size < megabytes << 20:
            kind, text = chance.random(), list(chance.choice(known))
            if kind < 0.6:
                text = chance.choices(words, k=400)
            elif kind < 0.8:
                text[chance.randrange(400)] = "changed"
            size += stream.write(json.dumps({"text": " ".join(text)}) + "\n")


def peak(folder: Path, megabytes: int) -> int:
    """Bytes resident at most, of a process that refines so much text."""
    folder.mkdir()
    write(folder / "lines.jsonl", megabytes)
    command = [sys.executable, "-m", "tests.data_pipeline.test_memory", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    dropped, used = map(int, done.stdout.split())
    assert dropped > 1000
    return used


@pytest.mark.slow
def test_four_times_the_corpus_is_not_half_as_much_memory_again(tmp_path):
    once, four = peak(tmp_path / "once", 50), peak(tmp_path / "four", 200)
    assert four < 1.5 * once


def main(folder: Path) -> None:
    """Remove duplicates in this process; print how many, and the most memory it had."""
    (folder / "recipe.yaml").write_text(
        f"sources: [{{name: a, paths: {folder}/lines.jsonl}}]\nstages: {STAGES}\n"
    )
    refined = refine(load(Recipe, folder / "recipe.yaml"), folder / "work", part_bytes=16 << 20)
    dropped = sum(sum(tally.dropped.values()) for tally in refined.tallies.values())
    print(dropped, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
