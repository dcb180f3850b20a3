"""Files of every kind that the readers know, made by the libraries that people make them with."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from trivium.data_pipeline.readers import Counts, ReadOptions, read_batches

TEXTS = ["one", 'two, "quoted"\nand a second line', "três 三 👩‍👧", "nul \x00 inside", "five " * 50]


def rows_of(
    sources: Sequence[str | Path], counts: Counts | None = None, **options: Any
) -> list[dict[str, Any]]:
    settings = ReadOptions(**options)
    rows = list[dict[str, Any]]()
    for table in read_batches([str(source) for source in sources], settings, counts):
        assert table.schema == settings.schema
        assert len(table)
        table.validate(full=True)
        rows += table.to_pylist()
    return rows


def texts_of(*sources: str | Path, counts: Counts | None = None, **options: Any) -> list[str]:
    return [row["text"] for row in rows_of(sources, counts, **options)]


def parquet(path: Path, texts: Sequence[Any], row_group: int = 2, **more: Any) -> Path:
    pq.write_table(pa.table({"text": texts, **more}), path, row_group_size=row_group)
    return path


def table_file(path: Path, rows: Sequence[Sequence[str]]) -> Path:
    text = io.StringIO()
    csv.writer(text, delimiter="\t" if ".tsv" in path.name else ",").writerows(rows)
    raw = text.getvalue().encode()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def warc_record(
    number: int, kind: str = "response", block: bytes | None = None, **more: Any
) -> bytes:
    if block is None:
        block = (
            "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n"
            f"<html><body><p>Página {number}</p></body></html>"
        ).encode()
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Record-ID: <urn:uuid:{number}>\r\n"
        f"WARC-Date: 2024-01-01T00:00:00Z\r\nWARC-Target-URI: http://example.org/{number}\r\n"
        f"Content-Type: application/http; msgtype=response\r\n"
        f"Content-Length: {more.get('length', len(block))}\r\n\r\n"
    )
    return head.encode() + block + b"\r\n\r\n"


def http(content_type: str, body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {content_type}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def packed(*records: bytes) -> bytes:
    return b"".join(gzip.compress(record) for record in records)


def make_every_kind(folder: Path, texts: Sequence[str] = TEXTS) -> dict[str, Path]:
    """A file of each kind, with the same texts where the kind can hold them."""
    ids = [f"id{n}" for n in range(len(texts))]
    urls = [f"http://example.org/{n}" for n in range(len(texts))]
    rows = [("id", "text", "url"), *zip(ids, texts, urls, strict=True)]
    records = b"".join(
        orjson.dumps({"id": i, "text": t, "url": u}) + b"\n"
        for i, t, u in zip(ids, texts, urls, strict=True)
    )
    wet = [warc_record(n, "conversion", text.encode()) for n, text in enumerate(texts)]
    pages = [warc_record(n) for n in range(len(texts))]
    files = {
        "a.parquet": parquet(folder / "a.parquet", texts, id=ids, url=urls),
        "b.csv": table_file(folder / "b.csv", rows),
        "c.tsv": table_file(folder / "c.tsv", rows),
        "d.csv.gz": table_file(folder / "d.csv.gz", rows),
        "e.jsonl": folder / "e.jsonl",
        "f.jsonl.gz": folder / "f.jsonl.gz",
        "g.wet": folder / "g.wet",
        "h.warc.wet.gz": folder / "h.warc.wet.gz",
        "i.warc": folder / "i.warc",
        "j.warc.gz": folder / "j.warc.gz",
        "k.html": folder / "k.html",
        "l.md": folder / "l.md",
        "m.csv.zst": folder / "m.csv.zst",
        "n.jsonl.zst": folder / "n.jsonl.zst",
        "o.json": folder / "o.json",
        "p.warc.zst": folder / "p.warc.zst",
        "q.html.gz": folder / "q.html.gz",
        "r.txt.gz": folder / "r.txt.gz",
    }
    files["e.jsonl"].write_bytes(records)
    files["f.jsonl.gz"].write_bytes(gzip.compress(records))
    files["g.wet"].write_bytes(b"".join(wet))
    files["h.warc.wet.gz"].write_bytes(packed(*wet))
    files["i.warc"].write_bytes(b"".join(pages))
    files["j.warc.gz"].write_bytes(packed(*pages))
    files["k.html"].write_text("<html><body><p>Página</p></body></html>", encoding="utf-8")
    files["l.md"].write_text("# Title\n\nText.", encoding="utf-8")
    array = [{"id": i, "text": t, "url": u} for i, t, u in zip(ids, texts, urls, strict=True)]
    files["m.csv.zst"].write_bytes(zstandard.compress(files["b.csv"].read_bytes()))
    files["n.jsonl.zst"].write_bytes(zstandard.compress(records))
    files["o.json"].write_bytes(orjson.dumps(array, option=orjson.OPT_INDENT_2))
    files["p.warc.zst"].write_bytes(zstandard.compress(b"".join(pages)))
    files["q.html.gz"].write_bytes(gzip.compress(files["k.html"].read_bytes()))
    files["r.txt.gz"].write_bytes(gzip.compress("".join(texts).encode()))
    return files


TABLES = ["a.parquet", "b.csv", "c.tsv", "d.csv.gz", "m.csv.zst"]
