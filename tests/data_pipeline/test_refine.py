"""A recipe over parts: the same documents however it is cut, interrupted and shared out."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc
import pytest

from trivium.data_pipeline.config_tree import dump_yaml, load
from trivium.data_pipeline.errors import InputError
from trivium.data_pipeline.executors import executor_for
from trivium.data_pipeline.parts import plan_parts
from trivium.data_pipeline.recipe import Recipe, Source, StageChoice
from trivium.data_pipeline.refine import Refined, refine
from trivium.data_pipeline.stages.registry import stage_classes
from trivium.data_pipeline.tasks import Runner

FILES, ROWS = 6, 50
SOURCES = (Source(name="any", paths=("any.txt",)),)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JSON lines with many repeated texts, one damaged line, one text file."""
    folder = tmp_path_factory.mktemp("corpus")
    chance = random.Random(0)
    for number in range(FILES):
        lines = [
            json.dumps({"text": f"text {chance.randrange(120)} " * 20, "id": f"{number}-{row}"})
            for row in range(ROWS)
        ]
        if number == 2:
            lines[7] = lines[7][:-3]
        (folder / f"{number}.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    (folder / "one.txt").write_text("text 5 " * 20)
    return folder


def recipe_for(corpus: Path, folder: Path, *overrides: str) -> Recipe:
    path = folder / "recipe.yaml"
    path.write_text(
        f"sources:\n  - name: lines\n    paths: ['{corpus}/*.jsonl.gz']\n"
        f"  - {{name: text, paths: '{corpus}/one.txt'}}\nstages: [exact_duplicates]\n"
    )
    return load(Recipe, path, overrides)


def texts(refined: Refined) -> list[str]:
    return [
        text
        for file in refined.files
        for text in pa.ipc.open_file(str(file)).read_all().column("text").to_pylist()
    ]


def first_occurrences(corpus: Path) -> list[str]:
    found: dict[str, None] = {}
    for file in sorted(corpus.glob("*.jsonl.gz")):
        for line in gzip.decompress(file.read_bytes()).decode().split("\n"):
            if line.endswith("}"):
                found.setdefault(json.loads(line)["text"])
    found.setdefault((corpus / "one.txt").read_text())
    return list(found)


def digest(folder: Path) -> dict[str, str]:
    """Of every file but the facts, which hold times."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "facts.json"
    }


def finished(folder: Path) -> int:
    """Tasks whose facts are written. Folders may be renamed meanwhile: os.walk does not mind."""
    return sum("facts.json" in files for _, _, files in os.walk(folder))


@pytest.mark.parametrize(("part_bytes", "workers"), [(500, 2), (2000, 1), (1 << 30, 1)])
def test_the_first_of_equal_documents_stays(corpus, tmp_path, part_bytes, workers):
    recipe = recipe_for(corpus, tmp_path, f"part_bytes={part_bytes}")
    refined = refine(recipe, tmp_path / "work", Runner(executor_for("local", workers)))
    assert texts(refined) == first_occurrences(corpus)
    assert len(refined.files) >= len(plan_parts(recipe, part_bytes))
    tally = refined.tallies["exact_duplicates"]
    assert tally.documents_in == FILES * ROWS - 1 + 1
    assert tally.documents_out == len(first_occurrences(corpus))
    assert tally.dropped == {"exact duplicate": tally.documents_in - tally.documents_out}
    assert len(tally.examples["exact duplicate"]) == 20
    assert (refined.read["lines"].skipped, refined.read["text"].skipped) == (1, 0)
    assert "2.jsonl.gz, line 8" in refined.read["lines"].first_problems[0]


def test_a_recipe_without_stages_is_its_documents(corpus, tmp_path):
    refined = refine(recipe_for(corpus, tmp_path, "stages=[]"), tmp_path / "work")
    assert len(texts(refined)) == FILES * ROWS
    assert refined.tallies == {}


def test_a_stage_twice_is_told_apart(corpus, tmp_path):
    recipe = recipe_for(corpus, tmp_path, "stages=[exact_duplicates, exact_duplicates]")
    first, second = refine(recipe, tmp_path / "work").tallies.values()
    assert first.dropped
    assert second.documents_in == second.documents_out == first.documents_out


def test_stages_of_documents_and_of_the_corpus_take_turns(tmp_path):
    page = "<html><body><article><p>{}</p></article></body></html>"
    prose = "The quick brown fox of the story has run to the river and back again, {0}. " * 8
    write = "Write to someone@example.org, they will have the answer for you. "
    rows = [
        {"id": "page", "text": page.format(prose.format("first") + write)},
        {"id": "again", "text": prose.format("first") + write},
        {"id": "short", "text": "No."},
        {"id": "other", "text": prose.format("second")},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (tmp_path / "recipe.yaml").write_text(
        f"sources: [{{name: web, paths: '{tmp_path}/a.jsonl'}}]\n"
        "stages: [html_to_text, fix_encoding, normalize, seed_rules: {max_characters: 9999},"
        " exact_duplicates, pii]\n"
    )
    refined = refine(load(Recipe, tmp_path / "recipe.yaml"), tmp_path / "work")
    assert list(refined.tallies) == [
        "html_to_text", "fix_encoding", "normalize", "seed_rules", "exact_duplicates", "pii",
    ]  # fmt: skip
    left = texts(refined)
    assert [("first" in text, "second" in text) for text in left] == [(True, False), (False, True)]
    assert "someone@example.org" not in left[0]
    assert refined.tallies["html_to_text"].changed == 1
    assert sum(refined.tallies["seed_rules"].dropped.values()) == 1
    assert refined.tallies["exact_duplicates"].dropped == {"exact duplicate": 1}
    assert refined.tallies["pii"].changed == 1


def test_a_source_has_stages_of_its_own(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        '{"text": ["No.", "Two lines."]}\n{"text": "Longer, this one."}'
    )
    (tmp_path / "b.jsonl").write_text('{"text": "No."}\n')
    (tmp_path / "recipe.yaml").write_text(
        f"sources:\n  - {{name: a, paths: '{tmp_path}/a.jsonl', stages: [seed_rules: "
        "{min_characters: 15, min_stop_word_fraction: 0.0}]}\n"
        f"  - {{name: b, paths: '{tmp_path}/b.jsonl'}}\nstages: [normalize]\n"
    )
    recipe = load(Recipe, tmp_path / "recipe.yaml")
    refined = refine(recipe, tmp_path / "work")
    assert texts(refined) == ["Longer, this one.", "No."]
    assert list(refined.tallies) == ["a: seed_rules", "normalize"]
    assert refined.tallies["a: seed_rules"].dropped == {"too short": 1}
    assert load(Recipe, written(tmp_path, dump_yaml(recipe))) == recipe


def written(folder: Path, text: str) -> Path:
    (folder / "written.yaml").write_text(text)
    return folder / "written.yaml"


@pytest.mark.parametrize("name", sorted(stage_classes()))
def test_every_stage_can_be_spelled(name, corpus, tmp_path):
    """With all its parameters, as a recipe that is written out spells it."""
    needs = {
        "blocklist": {"words": str(corpus / "one.txt")},
        "decontaminate": {"paths": (__file__,)},
    }
    stage = stage_classes()[name](**needs.get(name, {}))
    spelled = dump_yaml(Recipe(sources=SOURCES, stages=(StageChoice(name, stage),)))
    (tmp_path / "spelled.yaml").write_text(spelled)
    [choice] = load(Recipe, tmp_path / "spelled.yaml").stages
    assert choice.value == stage


def test_killed_anywhere_it_goes_on_to_the_same_bytes(corpus, tmp_path):
    recipe = recipe_for(corpus, tmp_path, "part_bytes=2000")
    expected = texts(refine(recipe, tmp_path / "undisturbed"))
    work, chance, kills = tmp_path / "disturbed", random.Random(1), 0
    for _ in range(4):
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.data_pipeline.test_refine", str(corpus), str(tmp_path)],
            start_new_session=True,
        )
        before = finished(work)
        while process.poll() is None and finished(work) == before:
            time.sleep(0.005)
        time.sleep(chance.random() * 0.01)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills >= 1
    assert texts(refine(recipe, work)) == expected
    assert digest(work) == digest(tmp_path / "undisturbed")


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("stages=[exact_duplicate]", "did you mean exact_duplicates?"),
        ("sources=[]", "name at least one"),
        ("sources=[{name: a, paths: x}, {name: a, paths: y}]", "'a' is named twice"),
        ("sources=[{name: a/b, paths: x}]", "a file name without folders"),
        ("part_bytes=-1", "0 or more"),
        ("sources=[{name: a, paths: x, stages: [url_duplicates]}]", "in the stages of the recipe"),
        ("sources=[{name: a, paths: x, weight: 1}, {name: b, paths: y}]", "to all of them or none"),
        ("temperature=0", "above 0"),
    ],
)
def test_what_a_recipe_refuses(corpus, tmp_path, override, part):
    with pytest.raises(InputError) as caught:
        recipe_for(corpus, tmp_path, override)
    assert part in str(caught.value)


if __name__ == "__main__":
    corpus_, folder_ = map(Path, sys.argv[1:])
    refine(recipe_for(corpus_, folder_, "part_bytes=2000"), folder_ / "disturbed")
