"""Documents: every kind of file in a fixed order, and one line for whatever cannot be read."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from trivium.data_pipeline.documents import (
    PYTHON_DOCS,
    ReadCounts,
    find_files,
    read_documents,
)
from trivium.data_pipeline.errors import InputError

zstandard = pytest.importorskip("zstandard")

TEXTS = ["first", "zweiter, größer", "三番目\nin two lines", "0"]


def lines(texts: list[str], key: str = "text") -> bytes:
    return "".join(json.dumps({key: text}) + "\n" for text in texts).encode()


def read(*sources: Path | str, **options: object) -> list[str]:
    return [d.text for d in read_documents([str(s) for s in sources], **options)]  # type: ignore[arg-type]


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("a.jsonl", lambda b: b),
        ("a.jsonl.gz", gzip.compress),
        ("a.jsonl.zst", zstandard.compress),
        ("two-frames.jsonl.zst", lambda b: zstandard.compress(b[:20]) + zstandard.compress(b[20:])),
        ("two-members.jsonl.gz", lambda b: gzip.compress(b[:20]) + gzip.compress(b[20:])),
        ("array.json", lambda b: b"[" + b.strip().replace(b"\n", b",\n") + b"]"),
        ("bom.jsonl", lambda b: b"\xef\xbb\xbf" + b),
        ("crlf.jsonl", lambda b: b.replace(b"\n", b"\r\n")),
        ("no-last-newline.jsonl", lambda b: b[:-1]),
    ],
)
def test_json_lines(tmp_path, name, pack):
    assert read(write(tmp_path / name, pack(lines(TEXTS)))) == TEXTS


def test_ids_and_sources(tmp_path):
    path = write(tmp_path / "a.jsonl", b'{"text": "x", "id": "doc-7"}\n\n{"text": "y"}\n')
    assert [(d.id, d.source) for d in read_documents([str(path)])] == [
        ("doc-7", str(path)),
        ("3", str(path)),
    ]


def test_text_whole_and_in_paragraphs(tmp_path):
    path = write(tmp_path / "a.txt", b"eins\nzwei\n\n \n\ndrei\n")
    assert read(path) == ["eins\nzwei\n\n \n\ndrei\n"]
    assert read(path, split_text="paragraphs") == ["eins\nzwei\n", "drei\n"]


def test_folders_globs_and_order(tmp_path):
    for name in ("b.txt", "a.md", "sub/c.txt", "sub/ignored.png"):
        write(tmp_path / name, name.encode())
    assert read(tmp_path) == ["a.md", "b.txt", "sub/c.txt"]
    assert read(tmp_path / "sub" / "c.txt", tmp_path / "a.md") == ["sub/c.txt", "a.md"]
    assert read(f"{tmp_path}/**/*.txt") == ["b.txt", "sub/c.txt"]


def test_empty_documents_are_counted(tmp_path):
    counts = ReadCounts()
    assert read(write(tmp_path / "a.jsonl", lines(["", " \n", "x"])), counts=counts) == ["x"]
    assert (counts.documents, counts.empty, counts.text_bytes) == (1, 2, 1)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", b"0123\xff", r"a\.txt: byte 4 \(0xff\) is not UTF-8.*latin-1"),
        ("a.txt", "hi".encode("utf-16"), r"byte 0 \(0xff\).*utf-16"),
        ("a.jsonl", b'{"text": "x"}\n{"text": "\xe4"}\n', r"a\.jsonl: byte 24 \(0xe4\)"),
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', r"line 2 \(byte 14\): not valid JSON"),
        ("a.jsonl", b'{"body": "x", "n": 1}\n', "no text under 'text' .its keys: body, n.: set"),
        ("a.jsonl", b'["x"]\n', "not an object"),
        ("a.jsonl", b'7\n', "a int, not an object"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', "line 1|lone surrogate"),
        ("a.jsonl.gz", gzip.compress(lines(TEXTS * 50))[:-20], "truncated or damaged"),
        ("a.jsonl.gz", b"not gzip", "truncated or damaged"),
        ("a.jsonl.zst", zstandard.compress(lines(TEXTS * 50))[:-20], "truncated or damaged"),
        ("a.jsonl.zst", b"not zstd at all", "truncated or damaged"),
    ],
)  # fmt: skip
def test_what_cannot_be_read(tmp_path, name, content, says):
    path = write(tmp_path / name, content)
    with pytest.raises(InputError, match=says) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    counts = ReadCounts()
    read(path, on_error="skip", counts=counts)
    assert counts.skipped == 1
    assert counts.first_problems == [str(caught.value)]


def test_the_good_records_around_a_bad_one(tmp_path):
    path = write(tmp_path / "a.jsonl", lines(["x"]) + b'{"text": "\xe4"}\n{"text\n' + lines(["y"]))
    assert read(path, on_error="skip") == ["x", "y"]
    text = write(tmp_path / "b.txt", b"caf\xe9")
    assert read(text, on_error="replace") == ["caf\ufffd"]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("missing.txt", "no such file, folder or match"),
        ("*.nothing", "no such file, folder or match"),
        ("empty", "no file with a known suffix"),
        ("a.pdf", r"unknown kind of file; known suffixes: .*\.jsonl"),
    ],
)
def test_sources_that_are_nothing(tmp_path, source, says):
    (tmp_path / "empty").mkdir()
    write(tmp_path / "a.pdf", b"%PDF")
    with pytest.raises(InputError, match=says):
        find_files([str(tmp_path / source)])
    with pytest.raises(InputError, match="sources is empty"):
        find_files([])


def test_the_corpus_that_is_always_there():
    files = find_files([PYTHON_DOCS])
    assert len(files) > 300
    assert files == find_files([PYTHON_DOCS])
    assert files[0].kind == "topics"
    counts = ReadCounts()
    stream = read_documents([PYTHON_DOCS], counts=counts)
    first = [next(stream) for _ in range(100)]
    assert all(document.text for document in first)
    assert first[0].source == "python-docs/topics"
