"""The script that shows shards: its figures, its texts, and what it refuses."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tools import inspect_shards
from trivium.data_pipeline.errors import fail_clean
from trivium.data_pipeline.manifest import Manifest
from trivium.data_pipeline.prepare import prepare_corpus
from trivium.data_pipeline.recipe import Recipe


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    texts = folder / "texts"
    texts.mkdir()
    for number in range(40):
        (texts / f"{number:02d}.txt").write_text(f"This is text number {number}, no other.\n" * 3)
    spec = Recipe(sources=(str(texts),), vocab_size=300, workers=1)
    prepare_corpus(spec, folder / "out")
    return folder / "out"


@pytest.fixture
def inspect(monkeypatch, capsys):
    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["inspect_shards.py", *arguments])
        status = fail_clean(inspect_shards.main)
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def test_a_prepared_folder(corpus, inspect):
    status, out, _ = inspect(f"shard={corpus}", "documents=[3, 39]", "tokens=1000")
    assert status == 0
    assert "40 documents" in out
    assert f"checksums of {len(Manifest.load(corpus).files)} files" in out
    assert out.count("\ndocument ") == 2
    for number in (3, 39):
        assert f"This is text number {number}, no other." in out


def test_a_shard_alone_has_ids_and_with_a_tokenizer_text(numbered, corpus, inspect):
    status, out, _ = inspect(f"shard={numbered}", "samples=2", "tokens=5")
    assert status == 0
    assert "no manifest" in out
    assert "300 documents" in out
    assert "  text" not in out
    status, _, err = inspect(f"shard={numbered}.idx", f"tokenizer={corpus}")
    assert status == 2
    assert "wrong tokenizer" in err


def test_the_same_seed_shows_the_same_documents(corpus, inspect):
    shown = {inspect(f"shard={corpus}", "samples=5", "seed=1")[1] for _ in range(2)}
    assert len(shown) == 1


def test_a_changed_byte_is_found(corpus, inspect, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(corpus, copy)
    file = copy / "corpus.bin"
    content = bytearray(file.read_bytes())
    content[10] ^= 1
    file.write_bytes(content)
    status, _, err = inspect(f"shard={copy}")
    assert status == 2
    assert "sha256" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "shard: name a prepared folder"),
        (["shard=nowhere/at_all"], "no such file"),
        (["shard={corpus}", "documents=[40]"], "it has 0 to 39"),
        (["shard={corpus}", "tokens=-1"], "tokens -1: 0 or more"),
        (["shard={corpus}", "sample=1"], "did you mean samples?"),
    ],
)
def test_what_it_refuses(corpus, inspect, arguments, part):
    status, _, err = inspect(*(argument.format(corpus=corpus) for argument in arguments))
    assert status == 2
    assert part in err
    assert err.count("\n") == 1
