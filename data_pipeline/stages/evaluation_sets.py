"""Evaluation sets as texts: every field of every record of the files that benchmarks come in."""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.parquet
import zstandard

from ..errors import InputError
from ..readers.options import printable
from ..readers.sources import Source, find_sources

_BLANK_LINE = re.compile(r"\n[ \t]*(?:\n[ \t]*)+")
_DAMAGE = (OSError, EOFError, zlib.error, zstandard.ZstdError, pa.ArrowException)


class Field(NamedTuple):
    """A text of a record and where it stands: `choices`, `question.stem`; "" where no field is."""

    path: str
    text: str


class EvaluationFile(NamedTuple):
    """A file of an evaluation set.

    label: the end of its path, as short as tells it from the other files.
    """

    label: str
    records: list[list[Field]]


def read_evaluation_sets(
    paths: Sequence[str], keys: Sequence[str] = ()
) -> Iterator[EvaluationFile]:
    """The files that `paths` (files, folders, globs, URLs) stand for, in order, each one once.

    JSON and JSON lines (a record an object, or what an array holds), Parquet, CSV and TSV (a record
    a row) and plain text (a record a paragraph), all but Parquet also compressed (.gz; JSON and
    text also .zst). keys: the fields to take, `a.b` for b inside a, with all that is below them;
    none: every text. CSV has a header where keys are given, and every cell is taken where not.

    Raises InputError for a file that cannot be read, or that has no text under `keys`.
    """
    sources = list({source.name: source for source in find_sources(paths)}.values())
    for source, label in zip(sources, _labels([s.name for s in sources]), strict=True):
        try:
            records = [list(_fields(record)) for record in _records(source, bool(keys))]
        except (*_DAMAGE, UnicodeDecodeError, ValueError, csv.Error) as error:
            raise InputError(
                f"{source.name}: cannot be read as an evaluation set ({error}): mend or leave it"
            ) from error
        known = sorted({field.path for record in records for field in record})
        if keys:
            records = [[field for field in record if _under(field, keys)] for record in records]
        if not any(records):
            where = f" under {', '.join(keys)} (its fields: {', '.join(known)})" if keys else ""
            raise InputError(f"{source.name}: no text{where}: nothing could be found in documents")
        yield EvaluationFile(label, records)


def _labels(names: Sequence[str]) -> list[str]:
    """The shortest ends of paths, whole folders of them, that tell one from another."""
    parts = [re.split(r"[/\\]", name) for name in names]
    labels = [path[-1] for path in parts]
    depth = 1
    while depth < max(map(len, parts), default=0):
        depth += 1
        labels = [
            "/".join(path[-depth:]) if labels.count(label) > 1 else label
            for path, label in zip(parts, labels, strict=True)
        ]
    return labels


def _records(source: Source, header: bool) -> Iterator[Any]:
    """Records as Python values: dicts, lists and texts."""
    if source.kind == "parquet":
        with source.open() as stream:
            yield from pa.parquet.read_table(stream).to_pylist()
        return
    bare = source.name.lower().removesuffix(".gz").removesuffix(".zst")
    text = _content(source).decode("utf-8-sig")
    if source.kind in ("csv", "tsv"):
        rows = io.StringIO(text, newline="")
        delimiter = "\t" if source.kind == "tsv" else ","
        reader = csv.DictReader if header else csv.reader
        yield from reader(rows, delimiter=delimiter)
    elif source.kind != "documents":
        raise ValueError(f"a file of the kind {source.kind}")
    elif not bare.endswith((".json", ".jsonl")):
        yield from _BLANK_LINE.split(text.replace("\r\n", "\n"))
    else:
        yield from _json(text)


def _json(text: str) -> Iterator[Any]:
    try:
        whole = orjson.loads(text)
    except ValueError:  # more than one line
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                try:
                    yield orjson.loads(line)
                except ValueError as error:
                    raise ValueError(f"line {number}: {error}") from error
        return
    yield from whole if isinstance(whole, list) else [whole]


def _content(source: Source) -> bytes:
    with source.local() as path:
        raw = Path(path).read_bytes()
    if source.name.lower().endswith(".gz"):
        return gzip.decompress(raw)
    return _unzstd(raw) if source.name.lower().endswith(".zst") else raw


def _unzstd(raw: bytes) -> bytes:
    """Frame by frame: zstandard's stream reader takes a cut file for a whole one."""
    pieces = []
    while raw:
        frame = zstandard.ZstdDecompressor().decompressobj()
        pieces.append(frame.decompress(raw))
        if not frame.eof:
            raise EOFError("it ends inside a frame")
        raw = frame.unused_data
    return b"".join(pieces)


def _fields(value: Any, path: str = "") -> Iterator[Field]:
    """Every text in a record; the entries of a list have the path of the list."""
    if isinstance(value, str):
        yield Field(path, printable(value))
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield from _fields(entry, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for entry in value:
            yield from _fields(entry, path)


def _under(field: Field, keys: Sequence[str]) -> bool:
    return any(field.path == key or field.path.startswith(f"{key}.") for key in keys)
