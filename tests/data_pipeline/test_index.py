"""A corpus compared with an earlier one by what that kept, and a recipe's blend."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

pytest.importorskip("numba")

from trivium.data_pipeline.config_tree import load
from trivium.data_pipeline.errors import InputError
from trivium.data_pipeline.manifest import Manifest
from trivium.data_pipeline.prepare import prepare_corpus
from trivium.data_pipeline.recipe import Recipe
from trivium.data_pipeline.report import Report
from trivium.data_pipeline.samples import PackedSamples
from trivium.data_pipeline.shards import Shard

STAGES = "[exact_duplicates, paragraph_duplicates: {unit: line}, near_duplicates]"


@pytest.fixture(scope="module")
def texts() -> list[str]:
    chance = random.Random(2)
    words = ["".join(chance.choices("etaoinshr", k=chance.randint(2, 8))) for _ in range(500)]
    return [" ".join(chance.choices(words, k=80)) for _ in range(60)]


def prepare(out: Path, sources: dict[str, list[str]], settings: str = "") -> Manifest:
    out.mkdir()
    lines = []
    for name, texts in sources.items():
        path = out.parent / f"{out.name}-{name}.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        lines.append(f"  - {{name: {name}, paths: {path}}}\n")
    recipe = out.parent / f"{out.name}.yaml"
    recipe.write_text(f"sources:\n{''.join(lines)}vocab_size: 400\nworkers: 1\n{settings}")
    return prepare_corpus(load(Recipe, recipe), out)


def documents(manifest: Manifest) -> list[str]:
    tokenizer = manifest.tokenizer()
    return [
        tokenizer.decode(shard.document(number)[:-1].tolist())
        for shard in (Shard(prefix) for prefix, _ in manifest.blend)
        for number in range(shard.num_documents)
    ]


def test_what_an_earlier_corpus_has_is_left_out(texts, tmp_path):
    first = prepare(tmp_path / "first", {"a": texts[:30]}, f"stages: {STAGES}\nkeep_index: true\n")
    assert documents(first) == texts[:30]
    near = texts[7].replace(" ", " x ", 1)
    line = f"{texts[50]}\n{texts[3]}"  # one that is new, and a line of the earlier corpus
    fresh = [texts[5], near, texts[40], line, texts[40]]
    settings = f"stages: {STAGES}\nkeep_index: true\nearlier: [{tmp_path / 'first'}]\n"
    second = prepare(tmp_path / "second", {"b": fresh}, settings)
    assert documents(second) == [texts[40], texts[50]]
    both = f"stages: {STAGES}\nearlier: [{tmp_path / 'first'}, {tmp_path / 'second'}]\n"
    third = prepare(tmp_path / "third", {"c": [texts[50], texts[0], texts[59]]}, both)
    assert documents(third) == [texts[59]]
    report = Report.load(tmp_path / "third" / "report.json")
    assert [stage.documents_out for stage in report.stages] == [2, 1, 1]  # one by its line


@pytest.mark.parametrize(
    ("stages", "part"),
    [
        ("[url_duplicates]", "no index of url_duplicates"),
        ("[near_duplicates: {threshold: 0.7}]", "another threshold of near_duplicates"),
    ],
)
def test_an_index_must_fit(texts, tmp_path, stages, part):
    prepare(tmp_path / "first", {"a": texts[:9]}, f"stages: {STAGES}\nkeep_index: true\n")
    with pytest.raises(InputError, match=part):
        prepare(
            tmp_path / "second",
            {"b": texts},
            f"stages: {stages}\nearlier: [{tmp_path / 'first'}]\n",
        )


@pytest.mark.parametrize(
    ("settings", "keys", "power"),
    [
        ("", {}, 1.0),
        ("temperature: 2\n", {}, 0.5),
        ("", {"epochs": 3}, 1.0),
        ("", {"weight": 3}, None),
    ],
)
def test_the_blend(texts, tmp_path, settings, keys, power):
    sources = {"small": texts[:10], "large": texts[10:50], "none": [""]}
    out = tmp_path / "out"
    out.mkdir()
    entries = []
    for name, some in sources.items():
        (tmp_path / f"{name}.jsonl").write_text(
            "".join(json.dumps({"text": text}) + "\n" for text in some)
        )
        extra = keys if name == "small" else {"weight": 1} if "weight" in keys else {}
        entries.append({"name": name, "paths": str(tmp_path / f"{name}.jsonl"), **extra})
    path = tmp_path / "recipe.yaml"
    path.write_text(f"sources: {json.dumps(entries)}\nvocab_size: 400\nworkers: 1\n{settings}")
    manifest = prepare_corpus(load(Recipe, path), out)
    assert [shard.name for shard in manifest.shards] == ["small", "large"]
    small, large = manifest.shards
    if power is None:
        expected = 3.0
    else:
        expected = keys.get("epochs", 1) * (small.tokens / large.tokens) ** power
    assert small.weight / large.weight == pytest.approx(expected)
    assert small.weight + large.weight == pytest.approx(1.0)
    samples = PackedSamples([(out, 5.0)], 16, 0)
    assert sorted(samples.weights) == pytest.approx(sorted([small.weight, large.weight]))
    with pytest.raises(InputError, match="holds several shards"):
        _ = manifest.prefix
