"""Parquet, CSV and TSV."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data_pipeline.readers.files import (
    TABLES,
    TEXTS,
    parquet,
    rows_of,
    texts_of,
)
from trivium.data_pipeline.errors import InputError
from trivium.data_pipeline.readers import Counts


def test_parquet_of_other_types(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    for array in (
        pa.array(TEXTS, pa.large_string()),
        pa.array(TEXTS).dictionary_encode(),
        pa.array([text.encode() for text in TEXTS], pa.binary()),
    ):
        pq.write_table(pa.table({"body": array, "n": range(5)}), path)
        rows = rows_of([path], text_column="body", id_column="n")
        assert [row["text"] for row in rows] == TEXTS
        assert [row["id"] for row in rows] == ["0", "1", "2", "3", "4"]
        assert [row["id"] for row in rows_of([path], text_column="body")] == list("01234")


def test_parquet_with_nulls_blanks_and_bad_bytes(tmp_path: Path) -> None:
    raw = pa.array([b"good", b"b\xffad", None, b"  \n", b"", b"last"])
    text = pa.Array.from_buffers(pa.string(), 6, raw.buffers(), raw.null_count)
    pq.write_table(pa.table({"text": text}), tmp_path / "a.parquet")
    counts = Counts()
    rows = rows_of([tmp_path / "a.parquet"], counts)
    assert [(row["text"], row["id"]) for row in rows] == [("good", "0"), ("last", "5")]
    assert (counts.empty, counts.skipped) == (3, 1)
    assert "row 1" in counts.first_problems[0]
    assert texts_of(tmp_path / "a.parquet", on_error="replace")[1] == "b\ufffdad"
    with pytest.raises(InputError, match=r"row 1: byte 1 \(0xff\).*not UTF-8"):
        rows_of([tmp_path], on_error="fail")


@pytest.mark.parametrize("name", TABLES)
def test_a_table_without_the_column_is_named(every_kind: dict[str, Path], name: str) -> None:
    counts = Counts()
    assert rows_of([every_kind[name]], counts, text_column="content") == []
    assert counts.skipped == 1
    with pytest.raises(InputError, match=r"no column 'content'.*text.*set text_column"):
        rows_of([every_kind[name]], text_column="content", on_error="fail")


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    table = pa.table([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(InputError, match="two columns are named 'text'"):
        rows_of([tmp_path], on_error="fail")


def test_a_column_that_is_no_text(tmp_path: Path) -> None:
    counts = Counts()
    assert rows_of([parquet(tmp_path / "a.parquet", [1, 2, 3])], counts) == []
    assert "column 'text' is int64" in counts.first_problems[0]
    assert counts.skipped == 3


def test_csv_rows_that_are_broken_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbftext,n\r\na,1\r\nb,2,3\r\n\r\nc\r\nd\xff,4\r\n,5\r\ne,6")
    counts = Counts()
    assert texts_of(path, counts=counts) == ["a", "e"]
    assert (counts.skipped, counts.empty) == (3, 1)
    assert texts_of(path, on_error="replace") == ["a", "d\ufffd", "e"]
