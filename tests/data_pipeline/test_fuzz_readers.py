"""Files of every kind, damaged at random: valid batches and counted rejects, and nothing else.

`make test` tries a few hundred cases, the tests marked slow some ten thousand.
"""

from __future__ import annotations

import faulthandler
import random
import resource
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import orjson
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.data_pipeline.readers.files import TEXTS, make_every_kind
from trivium.data_pipeline.errors import InputError
from trivium.data_pipeline.readers import Counts, ReadOptions, read_batches

LIMIT = 1 << 20  # bytes of a document
SECONDS = 5.0  # for one case; most take a hundredth
FEW, MANY = 60, 600
SPLICES = (
    *(b"\x00", b"\xff", b"\xc3", b'"', b"\n", b"\r", b",", b"[", b"]", b"{", b"}", b"\\", b"9"),
    *(b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"PAR1", b"WARC/1.0\r\n", b"\r\n\r\n", b"<html>"),
    *(b"Content-Length: -1\r\n", b"Content-Length: 99999999999999999999\r\n", b'{"text": "x"}\n'),
)


class Change(NamedTuple):
    """One act of damage, at a share of the file's length."""

    kind: str
    at: float
    length: int
    bytes: bytes


CHANGES = st.lists(
    st.builds(
        Change,
        st.sampled_from(["flip", "cut", "insert", "double", "nul", "end"]),
        st.floats(0, 1, exclude_max=True),
        st.sampled_from([1, 1, 2, 4, 60, 700]),
        st.sampled_from(SPLICES) | st.binary(min_size=1, max_size=40),
    ),
    min_size=1,
    max_size=6,
)


def damaged(data: bytes, changes: list[Change]) -> tuple[bytes, int]:
    """`data` after the changes, and how many bytes at its beginning are as they were."""
    changed, first = bytearray(data), len(data)
    for change in changes:
        at = int(change.at * len(changed))
        end = at + change.length
        if change.kind == "flip" and at < len(changed):
            changed[at] ^= 1 << (change.length % 8)
        elif change.kind == "cut":
            del changed[at:end]
        elif change.kind == "insert":
            changed[at:at] = change.bytes
        elif change.kind == "double":
            changed[end:end] = changed[at:end]
        elif change.kind == "nul":
            changed[at:end] = bytes(change.length)
        elif change.kind == "end":
            del changed[at:]
        first = min(first, at)
    return bytes(changed), first


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    chance = random.Random(3)
    texts = [f"{n} {chance.choice(TEXTS)} {chance.random()}" for n in range(40)]
    made = make_every_kind(tmp_path_factory.mktemp("whole"), texts)
    return {name: path.read_bytes() for name, path in made.items()}


KINDS = [
    "a.parquet", "b.csv", "c.tsv", "d.csv.gz", "e.jsonl", "f.jsonl.gz", "g.wet", "h.warc.wet.gz",
    "i.warc", "j.warc.gz", "k.html", "l.md", "m.csv.zst", "n.jsonl.zst", "o.json", "p.warc.zst",
    "q.html.gz", "r.txt.gz",
]  # fmt: skip


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    """A reader that never comes back, also inside a library, ends the tests with its stack."""
    faulthandler.dump_traceback_later(300, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


def read(path: Path, on_error: str, rejects: Path | None = None) -> tuple[list[str], Counts]:
    """Texts of a file, each batch checked."""
    options = ReadOptions(
        max_document_bytes=LIMIT, batch_bytes=4000, on_error=on_error, rejects=rejects
    )  # type: ignore[arg-type]
    counts, texts = Counts(), list[str]()
    for batch in read_batches([str(path)], options, counts):
        batch.validate(full=True)
        assert batch.schema == options.schema
        assert len(batch)
        column = batch.column("text")
        assert not pc.any(pc.utf8_is_space(column)).as_py()
        assert pc.max(pc.binary_length(column)).as_py() <= LIMIT
        assert len(batch) == 1 or batch.nbytes < 4000 + 64 * len(batch)
        texts += column.to_pylist()
    assert counts.documents == len(texts)
    assert counts.text_bytes == sum(len(text.encode()) for text in texts)
    return texts, counts


def check(folder: Path, whole: dict[str, bytes], name: str, changes: list[Change]) -> None:
    path, rejects = folder / name, folder / "rejects.jsonl"
    data, first = damaged(whole[name], changes)
    path.write_bytes(data)
    began = time.monotonic()
    texts, counts = read(path, "skip", rejects)
    assert time.monotonic() - began < SECONDS
    entries = [orjson.loads(line) for line in rejects.read_bytes().splitlines()]
    assert bool(entries) == bool(counts.skipped)
    assert len(entries) <= counts.skipped
    assert all(entry["source"] == str(path) and entry["what"] for entry in entries)
    expected = before(folder, whole, name, first)
    assert texts[: len(expected)] == expected
    replaced, more = read(path, "replace")
    assert len(replaced) >= len(texts)
    assert more.skipped <= counts.skipped
    if not counts.skipped:
        assert read(path, "fail")[0] == texts
        return
    with pytest.raises(InputError) as caught:
        read(path, "fail")
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1500


def before(folder: Path, whole: dict[str, bytes], name: str, first: int) -> list[str]:
    """The texts of the records that are whole in the first bytes of a file of lines or records."""
    intact = whole[name][:first]
    suffixes = name.split(".")[1:]
    if suffixes[0] in ("csv", "tsv", "jsonl"):
        if suffixes[-1] == "gz":
            intact = zlib.decompressobj(31).decompress(intact)
        elif suffixes[-1] == "zst":
            return []  # one block, which is there or not
        intact = intact[: intact.rfind(b"\n") + 1]
        if suffixes[0] != "jsonl":
            # the last line may be within quotes, and what follows may add to the last row
            quoted = intact.count(b'"') % 2
            intact = intact[: intact.rfind(b'"')] if quoted else intact
            intact = intact[: intact.rfind(b"\r\n") + 2] if b"\r\n" in intact else b""
    elif name == "i.warc":
        intact = intact[: intact.rfind(b"\r\n\r\nWARC/") + 4] if b"\r\n\r\nWARC/" in intact else b""
    else:
        return []
    path = folder / f"intact.{suffixes[0]}"
    path.write_bytes(intact)
    return read(path, "skip")[0]


@pytest.mark.parametrize("name", KINDS)
def test_damage(files: dict[str, bytes], name: str, tmp_path: Path) -> None:
    run(files, name, tmp_path, FEW)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_much_damage(files: dict[str, bytes], name: str, tmp_path: Path) -> None:
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run(files, name, tmp_path, MANY)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 200 << 10  # KiB


def run(files: dict[str, bytes], name: str, folder: Path, examples: int) -> None:
    slow = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]

    @settings(max_examples=examples, deadline=None, suppress_health_check=slow, database=None)
    @given(CHANGES)
    def try_it(changes: list[Change]) -> None:
        check(folder, files, name, changes)

    try_it()
