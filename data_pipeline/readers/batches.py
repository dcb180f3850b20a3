"""Documents of any source as Arrow batches of a bounded size, in a fixed order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ..documents import ReadCounts, read_documents, utf8_length
from ..errors import InputError
from .options import Counts, Log, ReadOptions, Record, printable
from .sources import DAMAGE, Source, find_sources
from .tables import read_csv, read_parquet
from .web import read_html, read_warc

# Counted for a row beside its strings: offsets and validity.
_ROW_BYTES = 32

Piece: TypeAlias = "Record | pa.Table"
_READERS: dict[str, Callable[[Source, Log], Iterator[Piece]]] = {
    "parquet": read_parquet,
    "csv": read_csv,
    "tsv": read_csv,
    "html": read_html,
    "warc": read_warc,
}


def read_batches(
    sources: Sequence[str], options: ReadOptions | None = None, counts: Counts | None = None
) -> Iterator[pa.Table]:
    """Every document of `sources` in batches with the columns of `stages.stage.COLUMNS`.

    sources: files, folders, globs, URLs (http, s3, hf, whatever fsspec knows) and `python-docs`, in
    the order given; files of a folder sorted by path. Kinds go by suffix: Parquet, CSV, TSV, HTML,
    WARC, WET, and text and JSON lines, which `documents.read_documents` reads. Documents without
    text are counted and left.

    Damage (a truncated archive, a broken record, bad UTF-8, a missing column) is counted in
    `counts`, listed in `options.rejects` when the last batch was taken, and skipped; with
    on_error="fail" it raises InputError. A source that does not exist always does.
    """
    options = options or ReadOptions()
    counts = counts if counts is not None else Counts()
    found = find_sources(sources)
    batcher = _Batcher(options, counts)
    with Log(options, counts) as log:
        for source in found:
            for piece in _pieces(source, log):
                if isinstance(piece, Record):
                    yield from batcher.add_record(source.name, piece, log)
                else:
                    yield from batcher.add_table(source.name, piece, log)
        yield from batcher.flush()


def _pieces(source: Source, log: Log) -> Iterator[Piece]:
    """What the reader of a file finds; damage that it does not know of ends the file."""
    try:
        yield from _READERS.get(source.kind, _read_documents)(source, log)
    except DAMAGE as error:
        if isinstance(error, PermissionError) or source.remote is None:
            raise InputError(f"{source.name}: cannot be read ({error})") from error
        log.reject(source.name, "", f"cannot be read to its end ({error})")


def _read_documents(source: Source, log: Log) -> Iterator[Record]:
    """Text and JSON lines, by the reader that training uses."""
    options = log.options
    counts = ReadCounts()
    with source.local() as path:

        def rejected(file: str, where: str, what: str) -> None:
            log.reject(source.name if file == path else file, where, what)

        try:
            for document in read_documents(
                [path],
                text_key=options.text_column,
                id_key=options.id_column,
                url_key=options.url_column,
                split_text=options.split_text,
                on_error=options.on_error,
                max_document_bytes=options.max_document_bytes,
                counts=counts,
                rejected=rejected,
            ):
                yield Record(document.text, document.id, document.url)
        except InputError as error:  # it knows the copy, not the URL
            raise InputError(str(error).replace(path, source.name)) from error
    log.counts.empty += counts.empty
    log.counts.replaced += counts.replaced
    log.counts.file_bytes += counts.file_bytes


class _Batcher:
    """Gathers rows and cuts them into batches of `batch_bytes`."""

    def __init__(self, options: ReadOptions, counts: Counts) -> None:
        self._options = options
        self._counts = counts
        self._rows = list[tuple[str, str, str, str | None, str | None]]()
        self._tables = list[pa.Table]()
        self._bytes = 0
        self._source = "", ""  # the last one, and as it is shown

    def add_record(self, source: str, record: Record, log: Log) -> Iterator[pa.Table]:
        """Take a record; gives the batch that it does not fit into any more."""
        if not record.text or record.text.isspace():
            self._counts.empty += 1
            return
        text_bytes = utf8_length(record.text)
        if text_bytes > self._options.max_document_bytes:
            log.reject(source, f"record {record.id}", self._large(text_bytes))
            return
        name, id = self._name(source), _printable(record.id)
        url = None if record.url is None else _printable(record.url)
        size = text_bytes + _ROW_BYTES + sum(map(utf8_length, (name, id, url or "")))
        if self._bytes + size > self._options.batch_bytes:
            yield from self.flush()
        self._rows.append((record.text, id, name, url, record.mime))
        self._bytes += size
        self._counts.documents += 1
        self._counts.text_bytes += text_bytes

    def _name(self, source: str) -> str:
        if source != self._source[0]:
            self._source = source, printable(source)
        return self._source[1]

    def add_table(self, source: str, table: pa.Table, log: Log) -> Iterator[pa.Table]:
        """Take rows; gives the batches that they fill."""
        text = table.column("text")
        blank = pc.or_(pc.equal(pc.binary_length(text), 0), pc.utf8_is_space(text))
        self._counts.empty += int(pc.sum(blank).as_py() or 0)
        large = pc.greater(pc.binary_length(text), self._options.max_document_bytes)
        over = table.filter(large)
        sizes = pc.binary_length(over.column("text")).to_pylist()
        for id, size in zip(over.column("id").to_pylist(), sizes, strict=True):
            log.reject(source, f"record {id}", self._large(size))
        table = table.filter(pc.invert(pc.or_(blank, large))).combine_chunks()
        self._close_rows()
        ends = np.cumsum(_row_bytes(table))
        first = 0
        while first < len(table):
            before = int(ends[first - 1]) if first else 0
            room = before + self._options.batch_bytes - self._bytes
            last = int(np.searchsorted(ends, room, "right"))
            if last <= first and self._bytes:
                yield from self.flush()
                continue
            last = max(last, first + 1)  # one that is larger than a batch, alone
            self._tables.append(table.slice(first, last - first))
            self._bytes += int(ends[last - 1]) - before
            first = last
        self._counts.documents += len(table)
        self._counts.text_bytes += int(pc.sum(pc.binary_length(table.column("text"))).as_py() or 0)

    def flush(self) -> Iterator[pa.Table]:
        """The rows gathered so far."""
        self._close_rows()
        tables, self._tables, self._bytes = self._tables, [], 0
        if tables:
            yield pa.concat_tables(tables).combine_chunks()

    def _close_rows(self) -> None:
        rows, self._rows = self._rows, []
        if rows:
            schema = self._options.schema
            columns = list(zip(*rows, strict=True))[: len(schema)]
            arrays = [pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)]
            self._tables.append(pa.table(arrays, schema=schema))

    def _large(self, size: int) -> str:
        limit = self._options.max_document_bytes
        return f"{size} bytes of text, over max_document_bytes {limit}"


def _printable(text: str) -> str:
    return text if text.isascii() else printable(text)


def _row_bytes(table: pa.Table) -> NDArray[np.int64]:
    """Bytes of every row over all columns."""
    total = np.full(len(table), _ROW_BYTES, np.int64)
    for column in table.columns:
        lengths = pc.fill_null(pc.binary_length(column.cast(pa.large_string())), 0)
        total += lengths.to_numpy().astype(np.int64)
    return total
