"""A recipe killed at random points, on this machine and on Ray, ends with the undisturbed bytes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytest.importorskip("numba")

from trivium.data_pipeline import tasks
from trivium.data_pipeline.config_tree import load
from trivium.data_pipeline.manifest import MANIFEST, Manifest
from trivium.data_pipeline.prepare import prepare_corpus
from trivium.data_pipeline.recipe import Recipe

STAGES = """
  - normalize
  - language
  - exact_duplicates
  - paragraph_duplicates: {unit: line}
  - near_duplicates
  - pii
"""
TIMED = (".lock", "report.json", "report.html")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lines of made-up prose, many of them again as they are or with an edit."""
    folder = tmp_path_factory.mktemp("corpus")
    chance = random.Random(5)
    words = ["".join(chance.choices("etaoinshrdlu", k=chance.randint(2, 9))) for _ in range(2000)]
    texts: list[str] = []
    for _ in range(1500):
        text = " ".join(chance.choices(words, k=chance.randint(40, 120)))
        kind = chance.random()
        if texts and kind < 0.1:
            text = chance.choice(texts)
        elif texts and kind < 0.3:
            text = chance.choice(texts).replace(" ", " x ", 1)
        texts.append(text + "\nThe last line is that of every page of this site.")
    for number in range(3):
        rows = (json.dumps({"text": text}) for text in texts[number::3])
        (folder / f"{number}.jsonl").write_text("\n".join(rows))
    (folder / "recipe.yaml").write_text(
        f"sources: [{{name: lines, paths: {folder}/*.jsonl}}]\nstages:{STAGES}"
        "vocab_size: 600\npart_bytes: 100000\nkeep_index: true\nworkers: 2\n"
    )
    return folder


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in TIMED and ".work" not in path.parts
        if path.name != "facts.json"  # times, in an index
    }


def start(corpus: Path, out: Path, executor: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.data_pipeline.test_kills", str(corpus), str(out)]
    return subprocess.Popen([*command, executor], start_new_session=True)


def kill(process: subprocess.Popen[bytes], chance: random.Random) -> None:
    """Everything at once, or one process of it, which may be a worker."""
    family = [process.pid, *(child.pid for child in psutil.Process(process.pid).children(True))]
    alone = chance.random() < 0.3
    for pid in [chance.choice(family)] if alone else family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if alone:
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            raise AssertionError("it hangs where one of its processes was killed") from None
    process.wait()


def disturb(corpus: Path, out: Path, executor: str, kills: int, longest: float) -> int:
    """Start and kill until it was killed so often, or is done; how often it was killed."""
    chance, killed = random.Random(7), 0
    while killed < kills:
        process = start(corpus, out, executor)
        deadline = time.monotonic() + chance.random() * longest
        while time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.01)
        if process.poll() is None:
            kill(process, chance)
            killed += 1
        if (out / MANIFEST).exists():
            Manifest.load(out).check(every_byte=True)
            if process.returncode == 0:
                break
    return killed


@pytest.fixture(scope="module")
def undisturbed(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("undisturbed")
    manifest = prepare_corpus(load(Recipe, corpus / "recipe.yaml", ["workers=1"]), out)
    assert 500 < manifest.documents < 1400
    return contents(out)


def test_killed_a_few_times(corpus, undisturbed, tmp_path):
    assert disturb(corpus, tmp_path / "out", "local", 2, 12.0) >= 1
    assert start(corpus, tmp_path / "out", "local").wait() == 0
    assert contents(tmp_path / "out") == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["local", "ray"])
def test_killed_twenty_times(corpus, undisturbed, tmp_path, executor):
    if executor == "ray":
        pytest.importorskip("ray")
    total = 0
    for attempt in range(20):
        out = tmp_path / str(attempt)
        total += disturb(corpus, out, executor, 20 - total, 20.0)
        assert start(corpus, out, executor).wait() == 0
        assert contents(out) == undisturbed
        if total >= 20:
            return
    raise AssertionError(f"only {total} kills")


def main(corpus: Path, out: Path, executor: str) -> None:
    """Run the recipe, small as its parts are, in other processes."""
    tasks._WORTH_IT = 0
    prepare_corpus(load(Recipe, corpus / "recipe.yaml", [f"executor={executor}"]), out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
