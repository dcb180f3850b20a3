"""Which files there are, here and across a network."""

from __future__ import annotations

import os
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data_pipeline.readers.files import (
    TEXTS,
    rows_of,
    texts_of,
)
from trivium.data_pipeline.errors import InputError
from trivium.data_pipeline.readers import find_sources


def test_files_across_a_network(every_kind: dict[str, Path]) -> None:
    memory = fsspec.filesystem("memory")
    for name, path in every_kind.items():
        memory.pipe(f"/readers-test/{name}", path.read_bytes())
    try:
        for name, path in every_kind.items():
            url = f"memory://readers-test/{name}"
            here, there = rows_of([path]), rows_of([url])
            assert [row | {"source": ""} for row in there] == [row | {"source": ""} for row in here]
            assert {row["source"] for row in there} == {url}
        assert len(rows_of(["memory://readers-test/*.csv"])) == 5
        for name in ("d.csv.gz", "f.jsonl.gz"):  # signed addresses
            memory.pipe(f"/readers-test/{name}?key=1", every_kind[name].read_bytes())
            assert texts_of(f"memory://readers-test/{name}?key=1") == TEXTS
        memory.pipe("/readers-test/bad.jsonl", b'{"text": 1}\n')
        with pytest.raises(InputError, match=r"^memory://readers-test/bad.jsonl, line 1"):
            rows_of(["memory://readers-test/bad.jsonl"], on_error="fail")
    finally:
        memory.rm("/readers-test", recursive=True)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("memory://nowhere/a.csv", "memory://nowhere/a.csv: cannot be opened"),
        ("memory://nowhere/*.csv", "nothing matches|cannot be opened"),
        ("memory://nowhere/a.bin", "unknown kind of file"),
        ("nosuch://host/a.csv", "nosuch://host/a.csv: cannot be opened.*nosuch"),
        ("no/such/file.csv", "no such file"),
        ("no/such\0/file.csv", "NUL byte"),
        ("n" * 5000, r"n: cannot be opened .*too long"),
        ("~nobody-of-this-name/a.csv", "cannot be opened|no such file"),
    ],
)
def test_sources_that_are_not_there(source: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        rows_of([source])
    assert "\n" not in str(caught.value)


def test_a_missing_network_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "open_files", missing)
    with pytest.raises(InputError, match=r"s3://a/b\.csv: a package is missing: Install s3fs"):
        rows_of(["s3://a/b.csv"])


def test_sources_of_this_machine_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="sources is empty"):
        rows_of([])
    with pytest.raises(InputError, match="no file of a known kind"):
        rows_of([tmp_path])
    (tmp_path / "a.bin").write_bytes(b"")
    with pytest.raises(InputError, match="unknown kind"):
        rows_of([tmp_path / "a.bin"])
    assert {source.kind for source in find_sources(["python-docs"])} == {"documents"}


def test_names_that_are_not_utf8_and_control_characters_are_shown_as_escapes(
    tmp_path: Path,
) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\x1b[31m.parquet")
    with open(name, "wb") as stream:
        pq.write_table(pa.table({"text": ["a"]}), stream)
    assert [row["source"][-14:] for row in rows_of([name])] == ["\ufffd\x1b[31m.parquet"]
    with pytest.raises(InputError) as caught:
        rows_of([name], text_column="body", on_error="fail")
    assert r"\udcff\x1b[31m.parquet, schema: no column" in str(caught.value)
