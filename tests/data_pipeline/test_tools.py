"""The two scripts: one command form, and exit status 2 with one line for what a user can mend."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest

from tools import prepare_corpus, train_tokenizer
from trivium.data_pipeline.errors import fail_clean
from trivium.data_pipeline.manifest import Manifest
from trivium.data_pipeline.tokenizer import load_tokenizer

ROOT = Path(__file__).parents[2]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    lines = [{"text": f"line {i} of the corpus, with a word or two in it"} for i in range(300)]
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    return subprocess.run(
        [sys.executable, f"tools/{script}.py", *arguments],
        capture_output=True, text=True, cwd=ROOT, env=environment,
    )  # fmt: skip


def status(tool: ModuleType, arguments: Sequence[str]) -> int:
    """The exit status of a script, run in this process: a fresh one takes a second to start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{tool.__name__}.py", *arguments])
        return fail_clean(tool.main)


def test_train_then_prepare(text, tmp_path, capsys):
    folder = tmp_path / "tokenizer"
    assert status(
        train_tokenizer, [f"sources={text}", "vocab_size=400", f"out={folder}"]
    ) == 0  # fmt: skip
    trained = load_tokenizer(folder)
    assert trained.fingerprint[:12] in capsys.readouterr().out
    out = tmp_path / "corpus"
    arguments = [f"sources={text}", f"tokenizer={folder}", f"out={out}", "workers=1"]
    assert status(prepare_corpus, arguments) == 0
    manifest = Manifest.load(out)
    assert manifest.documents == 300
    assert manifest.tokenizer_fingerprint == trained.fingerprint
    assert "300 documents" in capsys.readouterr().out


def test_configuration_file_and_override(text, tmp_path):
    config = tmp_path / "corpus.yaml"
    config.write_text(
        f"sources: [{{name: mine, paths: {text}}}]\nvocab_size: 350\nout: {tmp_path / 'a'}\n"
    )
    done = run("prepare_corpus", "--config", str(config), f"out={tmp_path / 'b'}")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "a").exists()
    assert Manifest.load(tmp_path / "b" / "mine").vocab_size <= 350


@pytest.mark.parametrize(
    ("script", "arguments", "says"),
    [
        ("prepare_corpus", ["sorces=x"], "did you mean sources"),
        ("prepare_corpus", ["sources=/nowhere/at/all"], "no such file, folder or match"),
        ("prepare_corpus", ["tokenizer=/nowhere/at/all"], "no such tokenizer"),
        ("prepare_corpus", ["--config", "/nowhere.yaml"], "/nowhere.yaml"),
        ("train_tokenizer", ["kind=wordpiece"], "bpe, sentencepiece-bpe, sentencepiece-unigram"),
        ("train_tokenizer", ["vocab_size=100"], "at least 300"),
    ],
)
def test_what_a_user_can_mend_is_status_2(script, arguments, says, tmp_path, capfd):
    module = {"prepare_corpus": prepare_corpus, "train_tokenizer": train_tokenizer}[script]
    assert status(module, [*arguments, f"out={tmp_path / 'out'}"]) == 2
    error = capfd.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert says in error


def test_as_a_process_too(tmp_path):
    (tmp_path / "bad.txt").write_bytes(b"good \xff bad")
    done = run("prepare_corpus", f"sources={tmp_path / 'bad.txt'}", f"out={tmp_path / 'out'}")
    assert done.returncode == 2
    assert "bad.txt: byte 5 (0xff) is not UTF-8" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("module", [prepare_corpus, train_tokenizer])
def test_nowhere_to_put_it(module, capfd):
    assert status(module, []) == 2
    assert "out=build/" in capfd.readouterr().err
