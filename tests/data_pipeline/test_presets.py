"""Presets: every one loads, says where it is from, and stands in a recipe for its stages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.data_pipeline.stages.quality_texts import real_texts
from trivium.data_pipeline import presets
from trivium.data_pipeline.config_tree import dump_yaml, load
from trivium.data_pipeline.errors import InputError
from trivium.data_pipeline.presets import preset, preset_names
from trivium.data_pipeline.recipe import Recipe
from trivium.data_pipeline.stages.c4 import C4Rules
from trivium.data_pipeline.stages.seed_rules import SeedRules
from trivium.data_pipeline.stages.stage import batch

FOLDER = Path(presets.__file__).parent / "presets"
SOURCES = "sources: [{name: any, paths: any.txt}]\n"


def stages_of(name: str) -> dict[str, object]:
    return {choice.name: choice.value for choice in preset(name)}


def recipe(folder: Path, stages: str, *overrides: str) -> Recipe:
    (folder / "recipe.yaml").write_text(f"{SOURCES}stages: {stages}\n")
    return load(Recipe, folder / "recipe.yaml", overrides)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two presets, one of which names the other."""
    (tmp_path / "short.yaml").write_text("# x\n- normalize\n- seed_rules: {min_characters: 7}\n")
    (tmp_path / "longer.yaml").write_text("- preset: short\n- exact_duplicates\n")
    monkeypatch.setattr(presets, "_FOLDER", tmp_path)
    return tmp_path


def test_there_is_one_for_every_pipeline_that_was_promised():
    assert preset_names() == ["c4", "code", "fineweb", "gopher", "seed", "zh"]


@pytest.mark.parametrize("name", preset_names())
def test_a_recipe_of_it_alone_is_its_list(name: str, tmp_path):
    spelled = (FOLDER / f"{name}.yaml").read_text()
    (tmp_path / "list.yaml").write_text(f"{SOURCES}stages:\n{spelled}")
    assert recipe(tmp_path, f"[preset: {name}]") == load(Recipe, tmp_path / "list.yaml")


@pytest.mark.parametrize("name", preset_names())
def test_its_file_says_where_it_is_from(name: str):
    text = (FOLDER / f"{name}.yaml").read_text()
    comment = text[: text.index("\n- ")]
    assert all(line.startswith("#") for line in comment.splitlines())
    assert re.search(r"arXiv \d{4}\.\d{5}|no paper", comment)


def test_what_papers_set_apart():
    assert stages_of("seed")["seed_rules"] == SeedRules(
        min_characters=100,
        max_characters=100_000,
        min_alphanumeric_fraction=0.5,
        min_unique_line_fraction=0.3,
        min_stop_word_fraction=0.05,
    )
    assert stages_of("fineweb")["c4_rules"] == C4Rules(require_terminal_mark=False)
    assert stages_of("c4")["c4_rules"] == C4Rules(min_line_words=5, min_sentences=3)


def test_a_preset_stands_for_its_stages_in_their_place(own, tmp_path):
    short = recipe(tmp_path, "[pii, preset: short, fix_encoding, preset: short]")
    plain = "normalize, seed_rules: {min_characters: 7}"
    assert short == recipe(tmp_path, f"[pii, {plain}, fix_encoding, {plain}]")
    assert (
        short.fingerprint == recipe(tmp_path, f"[pii, {plain}, fix_encoding, {plain}]").fingerprint
    )
    longer = recipe(tmp_path, "[preset: longer]")
    assert [choice.name for choice in longer.stages] == [
        "normalize", "seed_rules", "exact_duplicates",
    ]  # fmt: skip
    assert recipe(tmp_path, "[]", "stages=[{preset: {name: longer}}]") == longer
    (tmp_path / "again.yaml").write_text(dump_yaml(longer))
    assert load(Recipe, tmp_path / "again.yaml") == longer


def test_a_mistake_in_a_preset_names_it(own, tmp_path):
    (own / "bad.yaml").write_text("- normalize\n- seed_rules: {min_caracters: 7}\n")
    with pytest.raises(InputError) as caught:
        recipe(tmp_path, "[preset: bad]")
    assert "preset bad: unknown key 1.seed_rules.min_caracters; did you mean" in str(caught.value)


@pytest.mark.parametrize(
    ("stages", "part"),
    [
        ("[preset: finweb]", "no preset 'finweb'; did you mean fineweb?"),
        ("[preset: xyz]", "known: c4, code, fineweb, gopher, seed, zh"),
        ("[preset: 7]", "stages.0.preset.name: got 7 (int), expected text; quote it"),
        ("[preset: [seed]]", "expected text"),
        ("[preset]", "stages.0.preset.name: is required"),
        ("[presets: seed]", "did you mean preset?"),
    ],
)
def test_what_is_refused(tmp_path, stages, part):
    with pytest.raises(InputError) as caught:
        recipe(tmp_path, stages)
    assert part in str(caught.value)


# --- On real texts, where this checkout has them beside it ----------------------


def test_c4_leaves_its_own_documents_as_they_are():
    """A sample of C4 as published: it went through the same rules."""
    texts = real_texts("c4_sample.jsonl.gz", 300)
    verdict = stages_of("c4")["c4_rules"](batch(texts))  # type: ignore[operator]
    assert verdict.reasons.null_count >= len(texts) - 1  # one has two sentences, as counted here
    assert verdict.changed == 0


@pytest.mark.parametrize(("name", "kept"), [("seed", 0.98), ("gopher", 0.85), ("fineweb", 0.7)])
def test_most_of_clean_text_stays(name: str, kept: float):
    """C4 was cleaned by one of these pipelines, and the others drop what it did not look at."""
    table = batch(real_texts("c4_sample.jsonl.gz", 300))
    for stage in stages_of(name).values():
        if callable(stage):  # a stage of documents, not of the corpus
            verdict = stage(table)
            table = verdict.documents.filter(verdict.reasons.is_null())
    assert len(table) >= kept * 300
