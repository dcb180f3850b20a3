"""Every kind of file: its texts, in batches of a bounded size, in a fixed order."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.data_pipeline.readers.files import (
    TABLES,
    TEXTS,
    parquet,
    rows_of,
    table_file,
    texts_of,
    warc_record,
)
from trivium.data_pipeline.errors import InputError
from trivium.data_pipeline.readers import Counts, ReadOptions, read_batches
from trivium.data_pipeline.stages.stage import COLUMNS

JSON = ["e.jsonl", "f.jsonl.gz", "n.jsonl.zst", "o.json"]


@pytest.mark.parametrize("name", [*TABLES, *JSON, "g.wet", "h.warc.wet.gz"])
def test_texts_come_back_as_they_were_written(every_kind: dict[str, Path], name: str) -> None:
    counts = Counts()
    rows = rows_of([every_kind[name]], counts)
    assert [row["text"] for row in rows] == TEXTS
    assert {row["source"] for row in rows} == {str(every_kind[name])}
    if name in TABLES or name in JSON:
        assert [row["id"] for row in rows] == [f"id{n}" for n in range(5)]
    assert [row["url"] for row in rows] == [f"http://example.org/{n}" for n in range(5)]
    assert counts.documents == 5
    assert counts.text_bytes == sum(len(text.encode()) for text in TEXTS)
    assert counts.skipped == 0


def test_ids_and_addresses_under_other_keys(tmp_path: Path) -> None:
    records: list[dict[str, Any]] = [
        {"text": "a", "id": "no", "key": 7, "href": "http://x"},
        {"text": "b", "key": None, "href": None},
        {"text": "c", "key": {"a": 1}, "href": ["http://x"]},
        {"text": "d", "key": "", "href": ""},
        {"text": "e", "key": "\x00é"},
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(map(orjson.dumps, records)))
    rows = rows_of([tmp_path], id_column="key", url_column="href")
    assert [row["id"] for row in rows] == ["7", "2", "3", "4", "\x00é"]
    assert [row["url"] for row in rows] == ["http://x", None, None, None, None]


def test_a_folder_is_read_in_the_order_of_its_paths(every_kind: dict[str, Path]) -> None:
    folder = every_kind["a.parquet"].parent
    (folder / "unknown.bin").write_bytes(b"x")
    rows = rows_of([folder])
    assert list(dict.fromkeys(row["source"] for row in rows)) == [
        str(folder / name) for name in sorted(every_kind)
    ]
    assert rows == rows_of([folder])
    assert len(rows_of([folder / "*.csv", folder / "e.jsonl"])) == 10


def test_batches_are_bounded_and_keep_the_order(tmp_path: Path) -> None:
    rng = random.Random(1)
    lengths = [rng.choice([1, 10, 200, 3000]) for _ in range(1200)]
    texts = [f"{n}:" + "x" * length for n, length in enumerate(lengths)]
    texts[700] = "L" * 50_000
    parquet(tmp_path / "a.parquet", texts[:500], row_group=77)
    table_file(tmp_path / "b.csv", [("text",), *((text,) for text in texts[500:800])])
    parquet(tmp_path / "c.parquet", texts[800:], row_group=400)
    tables = list(read_batches([str(tmp_path)], ReadOptions(batch_bytes=20_000)))
    assert [t for table in tables for t in table.column("text").to_pylist()] == texts
    sizes = [sum(map(len, table.column("text").to_pylist())) for table in tables]
    assert [size for size in sizes if size > 20_000] == [50_000]
    assert max(len(t) for t in tables if t.column("text")[0].as_py()[0] == "L") == 1
    assert len(tables) < 2 * sum(sizes) / 20_000 + 2
    assert {str(table.schema) for table in tables} == {str(COLUMNS)}


@pytest.mark.parametrize(
    "name", ["a.csv", "a.tsv", "a.jsonl", "a.txt", "a.html", "a.wet", "a.parquet"]
)
def test_a_single_line_of_five_megabytes(tmp_path: Path, name: str) -> None:
    line = "word " * 1_000_000 + "end"
    path = tmp_path / name
    if name == "a.parquet":
        parquet(path, [line])
    else:
        path.write_text(line if path.suffix in (".txt", ".html") else f'text\n"{line}"\n')
    if name == "a.jsonl":
        path.write_bytes(orjson.dumps({"text": line}))
    if name == "a.wet":
        path.write_bytes(warc_record(0, "conversion", line.encode()))
    assert texts_of(path) == [line]


@pytest.mark.parametrize(
    "suffix", ["parquet", "csv", "tsv", "jsonl", "txt", "html", "warc", "wet", "warc.gz"]
)
def test_an_empty_file_is_no_document(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a.{suffix}").write_bytes(b"")
    counts = Counts()
    assert rows_of([tmp_path], counts) == []
    assert counts.skipped == (suffix == "parquet")  # which has a footer even without rows


@pytest.mark.parametrize(
    "options",
    [
        {"batch_bytes": 0},
        {"max_document_bytes": 0},
        {"on_error": "stop"},
        {"split_text": "lines"},
        {"text_column": ""},
    ],
)
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        ReadOptions(**options)
