"""HTML files, and records of web archives, whole and broken."""

from __future__ import annotations

import gzip
from pathlib import Path

import orjson
import pytest

from tests.data_pipeline.readers.files import (
    http,
    packed,
    rows_of,
    texts_of,
    warc_record,
)
from trivium.data_pipeline.errors import InputError
from trivium.data_pipeline.readers import Counts


@pytest.mark.parametrize("name", ["i.warc", "j.warc.gz", "p.warc.zst"])
def test_pages_of_a_web_archive(every_kind: dict[str, Path], name: str) -> None:
    rows = rows_of([every_kind[name]], with_mime=True)
    assert [row["text"] for row in rows] == [
        f"<html><body><p>Página {n}</p></body></html>" for n in range(5)
    ]
    assert rows[3]["url"] == "http://example.org/3"
    assert rows[3]["id"] == "<urn:uuid:3>"
    assert rows[3]["mime"] == "text/html"


def broken_records() -> dict[str, list[bytes]]:
    good = [warc_record(n) for n in range(5)]
    flipped = bytearray(gzip.compress(good[2]))
    flipped[60] ^= 0xFF
    flipped[75] ^= 0x5A
    as_packed = [gzip.compress(record) for record in good]
    return {
        "garbage.warc": [*good[:2], b"\x00\xff garbage\r\n" * 20, *good[3:]],
        "too long.warc": [*good[:2], warc_record(2, length=10_000), *good[3:]],
        "too short.warc": [*good[:2], warc_record(2, length=70), *good[3:]],
        "negative.warc": [*good[:2], warc_record(2, length=-5), *good[3:]],
        "no number.warc": [*good[:2], warc_record(2, length="many"), *good[3:]],
        "no http.warc": [*good[:2], warc_record(2, block=b"\x00\xff not http"), *good[3:]],
        "cut.warc": [*good[:2], good[2][:-20], *good[3:]],
        "flipped.warc.gz": [*as_packed[:2], bytes(flipped), *as_packed[3:]],
        "cut.warc.gz": [*as_packed[:2], as_packed[2][:80], *as_packed[3:]],
        "too long.warc.gz": [
            *as_packed[:2],
            gzip.compress(warc_record(2, length=10_000)),
            *as_packed[3:],
        ],
        "garbage.warc.gz": [*as_packed[:2], b"\x1f\x8b\x08 not gzip" * 9, *as_packed[3:]],
    }


@pytest.mark.parametrize("name", sorted(broken_records()))
def test_after_a_broken_record_the_archive_goes_on(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"".join(broken_records()[name]))
    counts = Counts()
    found = [row["url"][-1] for row in rows_of([path], counts, rejects=tmp_path / "rejects.jsonl")]
    assert [n for n in found if n != "2"] == ["0", "1", "3", "4"]
    assert 1 <= counts.skipped <= 2
    rejected = [orjson.loads(line) for line in (tmp_path / "rejects.jsonl").open()]
    assert all(entry["source"] == str(path) and "byte" in entry["where"] for entry in rejected)
    with pytest.raises(InputError, match=r"byte \d+"):
        rows_of([path], on_error="fail")


def test_only_pages_of_a_web_archive_are_documents(tmp_path: Path) -> None:
    latin = "<html>Año".encode("latin-1")
    chunks = b"6\r\n<html>\r\n3\r\nabc\r\n0\r\n\r\n"
    blocks = [
        http("image/png", b"\x89PNG"),
        http("text/html", b"<html>moved", "301 Moved"),
        http("text/html", b"<html>gone", "404 Not Found"),
        http("text/html; charset=ISO-8859-1", latin),
        http("text/html", b'<html><meta charset="iso-8859-1">' + latin[6:]),
        http("text/html", gzip.compress(b"<html>packed"), "200 OK", "Content-Encoding: gzip"),
        http("text/html", b"<html>not packed", "200 OK", "Content-Encoding: gzip"),
        http("text/html", chunks, "200 OK", "Transfer-Encoding: chunked"),
        http("text/html; charset=punycode", b"<html>odd charset"),
        http("application/xhtml+xml", b"<html>x"),
    ]
    records = [warc_record(n, block=block) for n, block in enumerate(blocks)]
    records = [warc_record(90, "warcinfo", b"a: b"), *records, warc_record(91, "request", b"GET /")]
    (tmp_path / "a.warc").write_bytes(b"".join(records))
    counts = Counts()
    assert texts_of(tmp_path / "a.warc", counts=counts) == [
        "<html>Año",
        '<html><meta charset="iso-8859-1">Año',
        "<html>packed",
        "<html>not packed",
        "<html>abc",
        "<html>odd charset",
        "<html>x",
    ]
    assert (counts.not_text, counts.skipped) == (4, 0)


def unread_ends() -> dict[str, tuple[bytes, int, int]]:
    """Archives that fastwarc takes for ended too early: (content, pages in it, rejects)."""
    plain = [warc_record(n) for n in range(4)]
    good = [gzip.compress(record) for record in plain]
    flags = bytearray(good[1])
    flags[3] = 0x1F
    return {
        "empty member.warc.gz": (packed(*plain[:2], b"", *plain[2:]), 4, 0),
        "flags of a member.warc.gz": (b"".join([good[0], flags, *good[2:]]), 3, 1),
        "cut behind magic.warc.gz": (b"".join([*good, good[0][:5]]), 4, 1),
        "no member.warc.gz": (b"\x1f\x8b\x08" * 30, 0, 1),
        "nul.warc": (b"".join([*plain, bytes(3000), *plain]), 8, 1),
        "blank.warc": (b"".join([*plain, b"\r\n\r\n\r\n", *plain]), 8, 0),
        "version.warc": (b"WARC/1.0\r\n", 0, 1),
        "cut head.warc": (b"".join([*plain, plain[0][:18]]), 4, 1),
    }


@pytest.mark.parametrize("name", sorted(unread_ends()))
def test_an_archive_is_read_to_its_end(tmp_path: Path, name: str) -> None:
    content, pages, rejects = unread_ends()[name]
    (tmp_path / name).write_bytes(content)
    counts = Counts()
    assert (len(rows_of([tmp_path / name], counts)), counts.skipped) == (pages, rejects)
