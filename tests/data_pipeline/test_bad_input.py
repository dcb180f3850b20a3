"""Bad input through the command: all that is readable and a list of the rest, or one line and 2."""

from __future__ import annotations

import gzip
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("fastwarc")
pytest.importorskip("numba")

from tests.data_pipeline.readers.files import warc_record
from tools import prepare_corpus
from trivium.data_pipeline.errors import fail_clean
from trivium.data_pipeline.manifest import MANIFEST, Manifest
from trivium.data_pipeline.shards import Shard

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "tools/prepare_corpus.py"]
LONG = 200_000  # bytes of a line
LIMIT = 100_000


def text(number: int) -> str:
    return f"This is text {number}, one of those that can be read, whatever lies beside it."


def lines(*numbers: int) -> bytes:
    return b"".join(json.dumps({"text": text(number)}).encode() + b"\n" for number in numbers)


def cut_gzip(folder: Path) -> None:
    chance = random.Random(1)
    noise = [json.dumps({"text": chance.randbytes(200).hex()}).encode() + b"\n" for _ in range(9)]
    packed_lines = gzip.compress(lines(0, 1) + b"".join(noise), mtime=0)
    (folder / "a.jsonl.gz").write_bytes(packed_lines[: len(packed_lines) // 2])


def broken_archive(folder: Path) -> None:
    good = [warc_record(n, "conversion", text(n).encode()) for n in (0, 1)]
    (folder / "a.warc").write_bytes(good[0] + b"\x00garbage\r\n" * 9 + good[1])
    flipped = bytearray(gzip.compress(warc_record(7)))
    flipped[60] ^= 0x7F
    good = [gzip.compress(warc_record(n, "conversion", text(n).encode())) for n in (2, 3)]
    (folder / "b.warc.gz").write_bytes(good[0] + flipped + good[1])


def not_utf8(folder: Path) -> None:
    (folder / "a.jsonl").write_bytes(lines(0) + b'{"text": "\xff\xfe"}\n' + lines(1))
    (folder / "b.txt").write_bytes(b"caf\xe9")
    (folder / "c.csv").write_bytes(f"text\n{text(2)[:12]}\n".encode() + b"\xe9\n")


def nul_bytes(folder: Path) -> None:
    (folder / "a.jsonl").write_bytes(lines(0) + bytes(5000) + b"\n" + lines(1))
    (folder / "b.warc").write_bytes(bytes(5000))


def long_line(folder: Path) -> None:
    one = json.dumps({"text": "word " * (LONG // 5)}).encode()
    (folder / "a.jsonl").write_bytes(lines(0) + one + b"\n" + lines(1))
    (folder / "b.json").write_bytes(b"[" + lines(2) + b"," + one + b"," + lines(3) + b"]")
    (folder / "c.txt").write_bytes(b"word " * (LONG // 5))
    (folder / "d.csv").write_bytes(b"text\n" + b"word " * (LONG // 5) + b"\n")


def nothing_in_it(folder: Path) -> None:
    for name in ("a.jsonl", "b.txt", "c.csv", "d.warc", "e.html", "f.jsonl.gz", "g.parquet"):
        (folder / name).write_bytes(b"")
    (folder / "h.jsonl").write_bytes(b'{"text": ""}\n{"text": " \\n"}\n{"text": null}\n' + lines(0))
    (folder / "i.txt").write_bytes(b"\n\n  \n")


def other_schema(folder: Path) -> None:
    (folder / "a.jsonl").write_bytes(b'{"body": "x"}\n[1]\n7\n{"text": 1}\n' + lines(0))
    pq.write_table(pa.table({"body": ["x", "y"]}), folder / "b.parquet")
    pq.write_table(pa.table({"text": [1, 2]}), folder / "c.parquet")
    (folder / "d.csv").write_bytes(b"a,b\n1,2\n")


def equal_ids(folder: Path) -> None:
    rows = [{"text": text(number), "id": "same"} for number in range(3)]
    (folder / "a.jsonl").write_bytes(b"\n".join(json.dumps(row).encode() for row in rows))
    (folder / "b.jsonl").write_bytes(json.dumps({"text": text(3), "id": "same"}).encode())


# what is made, how many texts of text() are in it, and what is rejected: file, a part of the reason
CASES: list[tuple[Callable[[Path], None], int, list[tuple[str, str]]]] = [
    (cut_gzip, 2, [("a.jsonl.gz", "ends inside a gzip member")]),
    (broken_archive, 4, [("a.warc", "broken"), ("b.warc.gz", "broken")]),
    (not_utf8, 2, [("a.jsonl", "0xff"), ("b.txt", "0xe9"), ("c.csv", "not UTF-8")]),
    (nul_bytes, 2, [("a.jsonl", "not valid JSON"), ("b.warc", "broken")]),
    (long_line, 4, [(f, "max_document_bytes") for f in ("a.jsonl", "b.json", "c.txt", "d.csv")]),
    (nothing_in_it, 1, [("g.parquet", "not a readable Parquet"), ("h.jsonl", "no text under")]),
    (
        other_schema,
        1,
        [
            *(("a.jsonl", what) for what in ("no text", "a list", "a int", "no text")),
            *(("b.parquet", "no column"), ("c.parquet", "int64"), ("d.csv", "no column")),
        ],
    ),
    (equal_ids, 4, []),
]


def recipe(folder: Path, corpus: Path, **more: object) -> Path:
    source = {"name": "web", "paths": str(corpus), "max_document_bytes": LIMIT, **more}
    path = folder / "recipe.yaml"
    stages = ["exact_duplicates", "paragraph_duplicates"]
    path.write_text(json.dumps({"sources": [source], "stages": stages, "vocab_size": 400}))
    return path


def status(path: Path, out: Path, *more: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        arguments = ["prepare_corpus.py", "--config", str(path), f"out={out}", "workers=1", *more]
        patch.setattr(sys, "argv", arguments)
        return fail_clean(prepare_corpus.main)


def texts_of(out: Path) -> list[str]:
    manifest = Manifest.load(out)
    manifest.check(every_byte=True)
    tokenizer, shard = manifest.tokenizer(), Shard(manifest.prefix)
    return [tokenizer.decode(shard.document(n)[:-1].tolist()) for n in range(shard.num_documents)]


@pytest.mark.parametrize(
    ("make", "readable", "rejected"), CASES, ids=[make.__name__ for make, _, _ in CASES]
)
def test_all_that_is_readable(make, readable, rejected, tmp_path, capsys):
    corpus, out = tmp_path / "in", tmp_path / "out"
    corpus.mkdir()
    make(corpus)
    assert status(recipe(tmp_path, corpus), out) == 0
    found = texts_of(out)
    assert [one for one in found if one.startswith("This is text")][:readable] == [
        text(number) for number in range(readable)
    ]
    list_of = out / "rejects.jsonl"
    rejects = list_of.read_text().splitlines() if list_of.exists() else []
    entries = [json.loads(line) for line in rejects]
    assert [Path(entry["source"]).name for entry in entries] == [name for name, _ in rejected]
    for entry, (_, what) in zip(entries, rejected, strict=True):
        assert what in entry["what"]
    captured = capsys.readouterr()
    assert captured.err == ""
    skipped = Manifest.load(out).skipped
    assert skipped >= len(entries)
    assert (f"{skipped} records skipped" in captured.out) == bool(entries)


@pytest.mark.parametrize("make", [make for make, _, rejected in CASES if rejected])
def test_or_one_line_and_two(make, tmp_path, capsys):
    corpus, out = tmp_path / "in", tmp_path / "out"
    corpus.mkdir()
    make(corpus)
    assert status(recipe(tmp_path, corpus, on_error="fail"), out) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith(f"error: {corpus}")
    assert not (out / MANIFEST).exists()
    assert not list(out.glob("*.bin"))


def test_nothing_readable_at_all(tmp_path, capsys):
    corpus = tmp_path / "in"
    corpus.mkdir()
    (corpus / "a.jsonl").write_bytes(b"{broken\n" * 50)
    (corpus / "b.txt").write_bytes(b"")
    assert status(recipe(tmp_path, corpus), tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "50 skipped" in said
    assert "not valid JSON" in said


def start(path: Path, out: Path, *more: str, most: int | None = None) -> subprocess.Popen[str]:
    """The command in a process of its own, with files of `most` bytes."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}

    def limit() -> None:
        if most is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    return subprocess.Popen(
        [*COMMAND, "--config", str(path), f"out={out}", *more], cwd=ROOT, env=environment,
        text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=limit,
    )  # fmt: skip


def prose(path: Path, megabytes: float) -> None:
    chance = random.Random(2)
    with open(path, "w") as stream:
        while stream.tell() < megabytes * 1e6:
            words = ("".join(chance.choices("etaoins", k=5)) for _ in range(300))
            stream.write(json.dumps({"text": " ".join(words)}) + "\n")


@pytest.mark.parametrize("most", [3_000, 60_000])
def test_a_full_disk(tmp_path, most):
    """Here: files that cannot grow, which numpy, Arrow and Python each report in their own way."""
    corpus, out = tmp_path / "in", tmp_path / "out"
    corpus.mkdir()
    prose(corpus / "a.jsonl", 0.2)
    path = recipe(tmp_path, corpus)
    full = start(path, out, "workers=1", most=most)
    said = full.communicate()[1]
    assert full.returncode == 2, said
    assert said.count("\n") == 1
    assert "the disk is full" in said
    assert not (out / MANIFEST).exists()
    assert not list(out.glob("*.bin"))
    assert status(path, out) == 0
    assert status(path, tmp_path / "undisturbed") == 0
    for name in ("web.bin", "web.idx", "tokenizer.json"):
        assert (out / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes()


@pytest.mark.slow
def test_a_worker_that_the_kernel_kills(tmp_path):
    corpus, out = tmp_path / "in", tmp_path / "out"
    corpus.mkdir()
    prose(corpus / "a.jsonl", 30)
    path = recipe(tmp_path, corpus)
    run = start(path, out, "workers=2", "part_bytes=400000")
    deadline = time.monotonic() + 60
    workers: list[psutil.Process] = []
    while time.monotonic() < deadline and not workers:
        time.sleep(0.05)
        family = psutil.Process(run.pid).children()
        workers = [one for one in family if "spawn_main" in " ".join(one.cmdline())]
    workers[0].send_signal(signal.SIGKILL)
    said = run.communicate(timeout=60)[1]
    assert run.returncode == 2, said
    assert said.count("\n") == 1
    assert "a worker process was killed" in said
    assert not (out / MANIFEST).exists()
    assert status(path, out) == 0
    assert Manifest.load(out).documents > 10_000


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["jsonl", "json", "jsonl.gz", "txt", "csv"])
def test_a_line_of_300_megabytes_is_not_held(tmp_path, suffix):
    corpus, out = tmp_path / "in", tmp_path / "out"
    corpus.mkdir()
    (corpus / "a.jsonl").write_bytes(lines(0))
    recipe(tmp_path, corpus)
    small = peak(tmp_path / "recipe.yaml", tmp_path / "small")
    opening = gzip.open if suffix.endswith(".gz") else open
    before, after = {"json": (b'[{"text": "', b'"}]'), "csv": (b"text\n", b"\n")}.get(
        suffix, (b'{"text": "', b'"}\n')
    )
    with opening(corpus / f"b.{suffix}", "wb") as stream:
        stream.write(before)
        for _ in range(300):
            stream.write(b"words " * (1_000_000 // 6))
        stream.write(after)
    assert peak(tmp_path / "recipe.yaml", out) < small + (40 << 20)
    [entry] = (out / "rejects.jsonl").read_text().splitlines()
    assert "over max_document_bytes" in entry
    assert texts_of(out) == [text(0)]


def peak(path: Path, out: Path) -> int:
    """Bytes resident at most, of the command."""
    run = start(path, out, "workers=1")
    memory = 0
    process = psutil.Process(run.pid)
    while run.poll() is None:
        try:
            memory = max(memory, process.memory_info().rss)
        except psutil.NoSuchProcess:
            break
        time.sleep(0.01)
    assert run.wait() == 0
    return memory
