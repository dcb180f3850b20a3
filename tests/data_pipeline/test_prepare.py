"""Preparing a corpus: whole or not there, once, and the same for any number of workers."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trivium.data_pipeline import prepare, tasks
from trivium.data_pipeline.config_tree import load
from trivium.data_pipeline.content import document_hashes, hash_documents
from trivium.data_pipeline.documents import read_documents
from trivium.data_pipeline.errors import InputError
from trivium.data_pipeline.manifest import MANIFEST, Manifest, require_tokenizer
from trivium.data_pipeline.prepare import prepare_corpus
from trivium.data_pipeline.recipe import Recipe, Source
from trivium.data_pipeline.shards import Shard, ShardWriter, unigram_entropy
from trivium.data_pipeline.stages.blocklist import blocked_words
from trivium.data_pipeline.tokenizer_training import train_tokenizer

TIMED = (".lock", "report.json", "report.html")  # the report says how long it took


@pytest.fixture
def texts() -> list[str]:
    chance = random.Random(1)
    words = ["".join(chance.choices("abcdefghij", k=chance.randint(2, 9))) for _ in range(300)]
    return [" ".join(chance.choices(words, k=chance.randint(1, 60))) for _ in range(400)]


@pytest.fixture
def source(tmp_path: Path, texts: list[str]) -> Path:
    path = tmp_path / "source.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def spec(source: Path, **changed: Any) -> Recipe:
    return Recipe(**({"sources": (str(source),), "vocab_size": 400, "workers": 1} | changed))


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file() and p.name not in TIMED}


def test_what_comes_out(source, texts, tmp_path):
    manifest = prepare_corpus(spec(source), tmp_path / "out")
    assert sorted(contents(tmp_path / "out")) == [
        "corpus.bin", "corpus.hash", "corpus.idx",
        "manifest.json", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    tokenizer, shard = manifest.tokenizer(), Shard(manifest.prefix)
    assert manifest.documents == shard.num_documents == len(texts)
    assert manifest.tokens == shard.num_tokens
    assert manifest.bytes == sum(len(text.encode()) for text in texts)
    assert (manifest.dtype, manifest.vocab_size) == ("uint16", tokenizer.vocab_size)
    assert manifest.tokenizer_fingerprint == tokenizer.fingerprint
    for number, text in enumerate(texts):
        *ids, end = shard.document(number).tolist()
        assert end == tokenizer.eod_id == manifest.eod_id
        assert tokenizer.decode(ids) == text
    assert manifest.unigram_entropy == pytest.approx(unigram_entropy(shard.token_counts()))
    expected = hash_documents(shard.tokens, shard.document_offsets)
    assert (document_hashes(shard) == expected).all()
    assert Manifest.load(manifest.prefix) == manifest == Manifest.load(tmp_path / "out")
    manifest.check(every_byte=True)


@pytest.mark.parametrize("changed", [{"workers": 2}, {"part_bytes": 1000}, {"part_bytes": 7000}])
def test_the_same_wherever_and_however_cut(changed, source, tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "_WORTH_IT", 0)
    one = prepare_corpus(spec(source), tmp_path / "one")
    two = prepare_corpus(spec(source, **changed), tmp_path / "two")
    assert contents(one.directory) == contents(two.directory)
    assert not (tmp_path / "two" / ".work").exists()


def test_the_second_time_is_a_look(source, tmp_path, monkeypatch):
    first = prepare_corpus(spec(source), tmp_path / "out")
    before = contents(tmp_path / "out")

    def never(*_: object, **__: object) -> None:
        raise AssertionError("prepared again")

    with monkeypatch.context() as patch:
        patch.setattr(prepare, "_prepare", never)
        left = tmp_path / "out" / ".work" / "as of a run that was killed when all was in place"
        left.mkdir(parents=True)
        assert prepare_corpus(spec(source, workers=2), tmp_path / "out") == first
        assert not left.parent.exists()
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("what", ["spec", "source", "shard", "manifest", "index"])
def test_prepared_again_where_something_changed(what, source, tmp_path):
    first = prepare_corpus(spec(source), tmp_path / "out")
    before = contents(tmp_path / "out")
    changed = spec(source)
    if what == "spec":
        changed = spec(source, append_eod=False)
    elif what == "source":
        source.write_text(source.read_text() + '{"text": "one more"}\n')
    else:
        name = {"shard": "corpus.bin", "manifest": MANIFEST, "index": "corpus.idx"}[what]
        path = tmp_path / "out" / name
        path.write_bytes(path.read_bytes()[:-3])
        with pytest.raises(InputError, match="prepare the corpus again"):
            Manifest.load(tmp_path / "out")
    again = prepare_corpus(changed, tmp_path / "out")
    again.check(every_byte=True)
    if what in ("spec", "source"):
        assert again.spec_hash != first.spec_hash
    else:
        assert contents(tmp_path / "out") == before


def test_prepared_again_where_a_list_of_a_stage_changed(source, tmp_path):
    (tmp_path / "words.txt").write_text("nothing of this\n")
    (tmp_path / "recipe.yaml").write_text(
        f"sources: [{source}]\nvocab_size: 400\n"
        f"stages: [blocklist: {{words: {tmp_path / 'words.txt'}}}]\n"
    )
    recipe = load(Recipe, tmp_path / "recipe.yaml")
    every = prepare_corpus(recipe, tmp_path / "out").documents
    blocked_words.cache_clear()  # read once in a process
    (tmp_path / "words.txt").write_text("\n".join(source.read_text().split()[5:9]))
    assert prepare_corpus(recipe, tmp_path / "out").documents < every


def test_killed_at_any_time_it_goes_on_to_the_same_bytes(source, tmp_path):
    whole = contents(prepare_corpus(spec(source), tmp_path / "whole").directory)
    out = tmp_path / "out"
    program = (
        "import sys\n"
        "from trivium.data_pipeline import tasks\n"
        "from trivium.data_pipeline.prepare import prepare_corpus\n"
        "from trivium.data_pipeline.recipe import Recipe\n"
        "def told(task, call=tasks.perform):\n"
        "    print(flush=True); sys.stdin.readline(); call(task)\n"
        "tasks.perform = told\n"
        "r = Recipe(sources=(sys.argv[1],), vocab_size=400, workers=1, part_bytes=4000)\n"
        "prepare_corpus(r, sys.argv[2])\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    for steps in (1, 3, 5, 8):
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(source), str(out)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment,
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stdin is not None
        for _ in range(steps):
            assert process.stdout.readline()
            process.stdin.write(b"\n")
            process.stdin.flush()
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not (out / MANIFEST).exists()
        with pytest.raises(InputError, match="not prepared, or was interrupted"):
            Manifest.load(out)
    prepare_corpus(spec(source, part_bytes=4000), out)
    assert contents(out) == whole
    assert not (out / ".work").exists()


def test_killed_between_moving_files_it_is_not_there(source, tmp_path, monkeypatch):
    prepare_corpus(spec(source, vocab_size=300), tmp_path / "out")  # an older one lies there
    for moves in range(5):
        left = moves

        def sometimes(a: Any, b: Any, real: Any = os.replace) -> None:
            nonlocal left
            if Path(b).parent == tmp_path / "out":
                if left == 0:
                    raise KeyboardInterrupt
                left -= 1
            real(a, b)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", sometimes)
            with pytest.raises(KeyboardInterrupt):
                prepare_corpus(spec(source), tmp_path / "out")
            assert not (tmp_path / "out" / MANIFEST).exists()
    prepare_corpus(spec(source), tmp_path / "out").check(every_byte=True)


def test_full_disk(source, tmp_path, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(InputError, match="the disk is full"):
            prepare_corpus(spec(source), tmp_path / "out")
    assert contents(tmp_path / "out") == {}
    prepare_corpus(spec(source), tmp_path / "out")


def test_a_folder_that_cannot_be(source, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot write here"):
        prepare_corpus(spec(source), tmp_path / "file" / "out")


def test_bad_encoding_names_file_and_byte(tmp_path):
    (tmp_path / "bad.txt").write_bytes("grüße\n".encode() + b"\xe9t\xe9\n")
    strict = Source(name="all", paths=(f"{tmp_path}/*.txt",), on_error="fail")
    with pytest.raises(InputError, match=r"bad\.txt: byte 8 \(0xe9\) is not UTF-8.*iconv"):
        prepare_corpus(spec(tmp_path, sources=(strict,)), tmp_path / "out")
    with pytest.raises(InputError, match=r"1 skipped, the first: .*byte 8 \(0xe9\)"):
        prepare_corpus(spec(tmp_path / "bad.txt"), tmp_path / "out")
    (tmp_path / "good.txt").write_text("good " * 200)
    manifest = prepare_corpus(spec(tmp_path / "*.txt"), tmp_path / "out")
    assert (manifest.documents, manifest.skipped) == (1, 1)
    assert "byte 8" in (tmp_path / "out" / "rejects.jsonl").read_text()


def test_no_text_at_all(tmp_path):
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(InputError, match="no document with text"):
        prepare_corpus(spec(tmp_path / "empty.txt"), tmp_path / "out")


def test_two_at_once_make_one(source, tmp_path, monkeypatch):
    built = []
    build = prepare._prepare

    def slowly(*arguments: Any) -> Manifest:
        built.append(1)
        time.sleep(0.2)
        return build(*arguments)

    monkeypatch.setattr(prepare, "_prepare", slowly)
    made: list[Manifest] = []
    threads = [
        threading.Thread(target=lambda: made.append(prepare_corpus(spec(source), tmp_path / "out")))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made[0] == made[1]
    assert built == [1]


def test_progress_is_told(source, tmp_path):
    told: list[tuple[str, int, int]] = []
    prepare_corpus(spec(source), tmp_path / "out", lambda *news: told.append(news))
    assert all(0 <= done <= total for _, done, total in told)
    assert list(dict.fromkeys(stage for stage, _, _ in told)) == [
        "reading", "sampling", "encoding", "writing shards",
    ]  # fmt: skip


def test_the_wrong_tokenizer_is_named(source, tmp_path):
    manifest = prepare_corpus(spec(source), tmp_path / "out")
    other = train_tokenizer("bpe", read_documents([__file__]), 350, tmp_path / "other")
    require_tokenizer(manifest.prefix, manifest.tokenizer())
    with pytest.raises(InputError, match=r"bpe: wrong tokenizer.*out was made with another"):
        require_tokenizer(manifest.prefix, other)
    with ShardWriter(tmp_path / "foreign", dtype=np.int32) as writer:
        writer.add_document([1, 2, 70_000])
    with pytest.raises(InputError, match=r"foreign: holds token id 70000.*bpe has ids below 350"):
        require_tokenizer(tmp_path / "foreign", other)


def test_a_prepared_corpus_can_be_moved(source, tmp_path):
    manifest = prepare_corpus(spec(source), tmp_path / "out")
    shutil.move(tmp_path / "out", tmp_path / "moved")
    moved = Manifest.load(tmp_path / "moved")
    assert moved.tokenizer().fingerprint == manifest.tokenizer_fingerprint
    assert str(tmp_path) not in json.dumps(
        {k: v for k, v in json.loads((tmp_path / "moved" / MANIFEST).read_text()).items()
         if k != "spec"}
    )  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [
        {"sources": "/"},
        {"sources": ()},
        {"temperature": 0.0},
        {"part_bytes": -1},
        {"workers": -1},
    ],
)
def test_a_spec_is_judged_at_once(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        Recipe(**wrong)
