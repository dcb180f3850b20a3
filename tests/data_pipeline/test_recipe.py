"""Mistakes in a recipe: found before any work is done, each in a line that helps."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("numba")

from trivium.data_pipeline.config_tree import load
from trivium.data_pipeline.errors import InputError
from trivium.data_pipeline.prepare import prepare_corpus
from trivium.data_pipeline.recipe import Recipe

MISTAKES = {
    "stages: [normalise]": "stages.0: no 'normalise'; did you mean normalize?",
    "stages: [language: {language: {en: 1}}]": "did you mean stages.0.language.languages?",
    "stages: [language: {languages: {en: 60}}]": "stages.0.language: languages, en: minimum score",
    "stages: normalize": "stages: got 'normalize' (str), expected a list",
    "stages: [preset: finweb]": "no preset 'finweb'; did you mean fineweb?",
    "stages: [decontaminate: {paths: /no/such}]": "stages.0.decontaminate: /no/such: no such file",
    "sources: [{paths: FILE}]": "sources.0.name: is required; add name: value",
    "sources: [{name: a, path: FILE}]": "unknown key sources.0.path; did you mean sources.0.paths?",
    "sources: [{name: a, paths: []}]": "paths of a: name files, folders or globs",
    "sources: [{name: a, paths: ''}]": "paths of a: an empty path; the current folder is '.'",
    "sources: ['']": "sources: an empty path",
    "sources: []": "sources: name at least one",
    "sources: [{name: a, paths: FILE}, {name: a, paths: FILE}]": "'a' is named twice",
    "sources: [{name: a/b, paths: FILE}]": "name 'a/b': a file name without folders",
    'sources: [{name: "a\\0", paths: FILE}]': "name 'a\\x00': printable characters",
    f"sources: [{{name: {'n' * 101}, paths: FILE}}]": "100 bytes at most",
    "sources: [{name: a, paths: FILE, weight: much}]": "sources.0.weight: got 'much' (str)",
    "sources: [{name: a, paths: FILE, on_error: ignore}]": "expected one of fail, skip, replace",
    "sources: [{name: a, paths: FILE, max_document_bytes: 0}]": "max_document_bytes 0 of a: 1 to",
    "sources: [{name: a, paths: FILE, text_key: ''}]": "text_key of a is empty",
    "vocab_size: 20": "vocab_size 20: at least 300",
    "tokenizer_bytes: 0": "tokenizer_bytes 0: above 0",
}
LATER = {
    "sources: [/no/such/file.jsonl]": "/no/such/file.jsonl: no such file, folder or match",
    "tokenizer: bpee": "tokenizer: bpee: no such tokenizer: .*did you mean bpe",
    "tokenizer: /no/such": "to train one: bpe, sentencepiece-bpe, sentencepiece-unigram",
    "earlier: [/no/such]": "earlier: /no/such: no such folder; name that of a prepared corpus",
    "stages: [language: {languages: {zh: 1}}]": "1 read, .* 1 dropped, most by language",
}


def recipe(folder: Path, mistake: str) -> Recipe:
    file = folder / "a.jsonl"
    file.write_text('{"text": "An English sentence of a few words, which is no Chinese."}\n')
    lines = [mistake] if mistake.startswith("sources") else [f"sources: [{file}]", mistake]
    path = folder / "recipe.yaml"
    path.write_text("\n".join(lines).replace("FILE", str(file)))
    return load(Recipe, path, ["workers=1"])


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_that_the_recipe_shows(tmp_path, mistake):
    with pytest.raises(InputError) as caught:
        recipe(tmp_path, mistake)
    assert MISTAKES[mistake] in str(caught.value)


@pytest.mark.parametrize("mistake", LATER)
def test_mistakes_that_the_files_show(tmp_path, mistake):
    with pytest.raises(InputError, match=LATER[mistake]):
        prepare_corpus(recipe(tmp_path, mistake), tmp_path / "out")


def test_two_sources_over_one_file_are_no_mistake(tmp_path):
    asked = recipe(tmp_path, "sources: [{name: a, paths: FILE}, {name: b, paths: FILE}]")
    manifest = prepare_corpus(asked, tmp_path / "out")
    assert [(shard.name, shard.documents) for shard in manifest.shards] == [("a", 1), ("b", 1)]
