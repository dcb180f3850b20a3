"""What cannot be read costs itself and nothing else, and is listed."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import orjson
import pytest

from tests.data_pipeline.readers.files import (
    http,
    packed,
    parquet,
    rows_of,
    table_file,
    texts_of,
    warc_record,
)
from trivium.data_pipeline.errors import InputError
from trivium.data_pipeline.readers import Counts, ReadOptions, read_batches


def test_lines_and_documents_over_the_limit(tmp_path: Path) -> None:
    long = "x" * 5000
    table_file(tmp_path / "a.csv", [("text",), ("a",), (long,), ("b",)])
    (tmp_path / "b.html").write_text(long)
    (tmp_path / "c.jsonl").write_bytes(orjson.dumps({"text": long}) + b'\n{"text": "c"}')
    parquet(tmp_path / "d.parquet", ["d", long, "e"])
    big = warc_record(1, block=http("text/html", long.encode()))
    (tmp_path / "e.warc").write_bytes(warc_record(0) + big + warc_record(2))
    (tmp_path / "f.warc.gz").write_bytes(packed(warc_record(0), big, warc_record(2)))
    bomb = http("text/html", gzip.compress(long.encode()), "200 OK", "Content-Encoding: gzip")
    (tmp_path / "g.warc").write_bytes(warc_record(1, block=bomb) + warc_record(2))
    (tmp_path / "h.txt").write_text(long)
    elements = [{"text": text} for text in ("k", long, "k")]
    (tmp_path / "k.json").write_bytes(orjson.dumps(elements))
    counts = Counts()
    texts = texts_of(tmp_path, counts=counts, max_document_bytes=1000)
    assert [text[:1] for text in texts] == [*"abcde", *"<<<<<", *"kk"]
    assert counts.skipped == 9
    assert all("max_document_bytes" in problem for problem in counts.first_problems)


def test_a_line_over_the_limit_inside_quotes_costs_its_row(tmp_path: Path) -> None:
    long = "x" * 5000
    rows = [
        ("text", "n"),
        ("a", "1"),
        (f'b\n{long}"\nend', "2"),
        (f"{long}\n{long}", "3"),
        ("c", "4"),
    ]
    table_file(tmp_path / "a.csv", rows)
    counts = Counts()
    assert texts_of(tmp_path, counts=counts, max_document_bytes=1000) == ["a", "c"]
    assert "line 4: 5003 characters, over max_document_bytes 1000" in counts.first_problems[0]
    assert counts.skipped == 3


def test_a_truncated_gzip_gives_what_is_before_the_cut(tmp_path: Path) -> None:
    rng = random.Random(2)
    texts = [f"{n} " + "".join(rng.choices("abcdefgh ", k=500)) for n in range(400)]
    table_file(tmp_path / "a.csv.gz", [("text",), *((text,) for text in texts)])
    lines = b"".join(orjson.dumps({"text": text}) + b"\n" for text in texts)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines))
    wet = [warc_record(n, "conversion", text.encode()) for n, text in enumerate(texts)]
    (tmp_path / "c.wet.gz").write_bytes(packed(*wet))
    (tmp_path / "d.html.gz").write_bytes(gzip.compress(("<html>" + texts[0]).encode()))
    for path in sorted(tmp_path.iterdir()):
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
        counts = Counts()
        found = texts_of(path, counts=counts)
        assert found == texts[: len(found)]
        assert len(found) > 200 or path.name == "d.html.gz"
        assert counts.skipped >= 1
        with pytest.raises(InputError):
            rows_of([path], on_error="fail")


def test_rejects_are_written_whole_and_only_at_the_end(tmp_path: Path) -> None:
    corpus, rejects = tmp_path / "in", tmp_path / "out" / "rejects.jsonl"
    corpus.mkdir()
    lines = [b'{"text": "a"}', *[b"{broken"] * 25, b'{"text": "b"}', b'{"other": 1}']
    (corpus / "a.jsonl").write_bytes(b"\n".join(lines))
    (corpus / "b.parquet").write_bytes(b"PAR1 no")
    counts = Counts()
    stream = read_batches([str(corpus)], ReadOptions(rejects=rejects, batch_bytes=40), counts)
    next(stream)
    assert not rejects.exists()
    assert len(list(stream)) == 1
    entries = [orjson.loads(line) for line in rejects.open()]
    assert all(list(entry) == ["source", "where", "what"] for entry in entries)
    assert [entry["source"] for entry in entries][-1] == str(corpus / "b.parquet")
    assert [entry["where"].split()[1] for entry in entries[:-1]] == [
        *(str(line) for line in range(2, 27)),
        "28",
    ]
    assert (counts.documents, counts.skipped) == (2, 27)
    assert len(counts.first_problems) == 10
    assert sorted(p.name for p in rejects.parent.iterdir()) == ["rejects.jsonl"]
    rows_of([corpus / "a.jsonl"], rejects=tmp_path / "none.jsonl", text_column="other")
    (tmp_path / "good.txt").write_text("x")
    rows_of([tmp_path / "good.txt"], rejects=tmp_path / "none.jsonl")
    assert (tmp_path / "none.jsonl").read_bytes() == b""
