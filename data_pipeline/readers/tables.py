"""Tables: Parquet by row group, CSV and TSV by line."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import IO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .options import MIME, Log, Record, printable
from .sources import DAMAGE, Source

# Rows decoded at a time, and their bytes: bounds what lies beside a batch in memory.
_ROWS = 1024
_GROUP_BYTES = 32 << 20
# pyarrow's own errors, and those of Python that it uses for damaged files.
_ARROW_DAMAGE = (pa.ArrowException, OSError, ValueError, MemoryError, NotImplementedError)


def read_parquet(source: Source, log: Log) -> Iterator[pa.Table]:
    """Row group by row group, only the columns asked for; a damaged row group is rejected."""
    options = log.options
    with source.open() as stream:
        try:
            file = pq.ParquetFile(stream)
            names = file.schema_arrow.names
            groups = file.num_row_groups
        except _ARROW_DAMAGE as error:
            log.reject(source.name, "footer", f"not a readable Parquet file ({error})")
            return
        if options.text_column not in names:
            log.reject(source.name, "schema", _no_column(options.text_column, names))
            return
        if names.count(options.text_column) > 1:
            log.reject(source.name, "schema", f"two columns are named {options.text_column!r}")
            return
        wanted = (options.text_column, options.id_column, options.url_column)
        columns = [name for name in dict.fromkeys(wanted) if name in names]
        row = 0
        for group in range(groups):
            facts = file.metadata.row_group(group)
            end = row + facts.num_rows
            fit = _GROUP_BYTES * max(1, facts.num_rows) // max(1, facts.total_byte_size)
            size = max(1, min(_ROWS, fit))
            try:
                for rows in file.iter_batches(size, [group], columns=columns, use_threads=False):
                    yield from _arrow_rows(source, log, rows, row)
                    row += len(rows)
            except _ARROW_DAMAGE as error:
                where = f"row group {group}, from row {row}"
                log.reject(source.name, where, f"cannot be read ({error})", max(1, end - row))
            row = end


def _arrow_rows(source: Source, log: Log, rows: pa.RecordBatch, first: int) -> Iterator[pa.Table]:
    """`rows` (the first is row `first` of the file) with the columns of the batches."""
    options = log.options
    text = rows.column(rows.schema.get_field_index(options.text_column))
    kind = text.type.value_type if pa.types.is_dictionary(text.type) else text.type
    if not (_is_text(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        where = f"rows {first} to {first + len(rows) - 1}"
        what = f"column {options.text_column!r} is {kind}, not text: set text_column"
        log.reject(source.name, where, what, len(rows))
        return
    numbers = pa.array(range(first, first + len(rows)), pa.int64()).cast(pa.string())
    ids = pc.coalesce(_side(rows, options.id_column, numbers), numbers)
    urls = _side(rows, options.url_column, pa.nulls(len(rows), pa.string()))
    names = pa.array([printable(source.name)] * len(rows), pa.string())
    columns = [_utf8(source, log, text, first), ids, names, urls]
    schema = options.schema
    if options.with_mime:
        columns.append(pa.nulls(len(rows), MIME.type))
    table = pa.table(dict(zip(schema.names, columns, strict=True)))
    present = table.filter(pc.is_valid(table.column("text")))
    yield present.cast(schema)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind)) or (
        str(kind) == "string_view"
    )


def _side(rows: pa.RecordBatch, name: str, instead: pa.Array) -> pa.Array:
    index = rows.schema.get_field_index(name)
    if index < 0:
        return instead
    try:
        return rows.column(index).cast(pa.large_binary()).cast(pa.string())
    except _ARROW_DAMAGE:
        pass
    try:  # numbers, dates
        column = rows.column(index).cast(pa.string())
        column.validate(full=True)
        return column
    except _ARROW_DAMAGE:  # nested, or not UTF-8
        return instead


def _utf8(source: Source, log: Log, text: pa.Array, first: int) -> pa.Array:
    """`text` as large_string; rows that are not UTF-8 become null and are rejected or replaced.

    Parquet does not check what it stores as a string, and pyarrow does not check it on reading.
    """
    raw = text.cast(pa.large_binary())
    missing = raw.null_count
    log.counts.empty += missing
    try:
        return raw.cast(pa.large_string())
    except pa.ArrowInvalid:
        pass
    texts = list[str | None]()
    for number, value in enumerate(raw.to_pylist(), first):
        texts.append(None if value is None else decoded(source, log, f"row {number}", value))
    return pa.array(texts, pa.large_string())


def decoded(source: Source, log: Log, where: str, raw: bytes) -> str | None:
    """`raw` as UTF-8; None, and a reject, where it is not and is not to be replaced."""
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        if log.options.on_error == "replace":
            log.counts.replaced += 1
            return raw.decode(errors="replace")
        what = f"byte {error.start} (0x{raw[error.start]:02x}) of the text is not UTF-8"
        log.reject(source.name, where, what)
        return None


def read_csv(source: Source, log: Log) -> Iterator[Record]:
    """Rows under a header line; quotes as RFC 4180 has them, fields as large as documents may be.

    A row with another number of fields than the header is rejected, as is a quote that never ends.
    """
    options = log.options
    # the module's limit is one for the process; it is only ever raised
    csv.field_size_limit(max(csv.field_size_limit(), options.max_document_bytes))
    with source.open() as stream:
        lines = _Lines(source, log, stream)
        reader = csv.reader(iter(lines), delimiter="\t" if source.kind == "tsv" else ",")
        header: list[str] | None = None
        number = -1
        while True:
            try:
                row = next(reader, None)
            except csv.Error as error:
                log.reject(source.name, f"line {reader.line_num}", f"not valid CSV ({error})")
                continue
            except DAMAGE as error:
                what = f"the data is truncated or damaged ({error})"
                log.reject(source.name, f"after line {reader.line_num}", what)
                return
            if row is None or (lines.overlong and header is None):
                return
            if lines.overlong:  # rejected by then
                lines.overlong = False
                continue
            if not row:
                continue
            if header is None:
                header = [row[0].removeprefix("\ufeff"), *row[1:]]
                if options.text_column not in header:
                    what = _no_column(options.text_column, [_shown(name) for name in header])
                    log.reject(source.name, "header", what)
                    return
                continue
            number += 1
            where = f"row {number} (to line {reader.line_num})"
            if len(row) != len(header):
                what = f"{len(row)} fields where the header has {len(header)}"
                log.reject(source.name, where, what)
                continue
            fields = dict(zip(header, row, strict=True))
            raw = fields[options.text_column].encode("utf-8", "surrogateescape")
            text = decoded(source, log, where, raw)
            if text is not None:
                url = fields.get(options.url_column)
                yield Record(text, fields.get(options.id_column) or str(number), url or None)


class _Lines:
    """Lines with their ends, bytes that are not UTF-8 as surrogates.

    One that is overlong is rejected. What stands for it has a quote if its quotes are odd in
    number, so that a field across lines still ends where it does, and `overlong` says that the row
    is not to be had.
    """

    def __init__(self, source: Source, log: Log, stream: IO[bytes]) -> None:
        self.overlong = False
        self._source, self._log = source, log
        self._text = io.TextIOWrapper(stream, "utf-8", "surrogateescape", newline="")

    def __iter__(self) -> Iterator[str]:
        limit = self._log.options.max_document_bytes
        number = 0
        while line := self._text.readline(limit):
            number += 1
            if len(line) < limit or line.endswith(("\n", "\r")):
                yield line
                continue
            size, quotes = len(line), line.count('"')
            while not line.endswith(("\n", "\r")) and (line := self._text.readline(limit)):
                size += len(line)
                quotes += line.count('"')
            what = f"{size} characters, over max_document_bytes {limit}"
            self._log.reject(self._source.name, f"line {number}", what)
            self.overlong = True
            yield '"' * (quotes % 2) + "\n"


def _shown(name: str) -> str:
    return ascii(name)[1:-1]


def _no_column(name: str, names: list[str]) -> str:
    shown = ", ".join(names[:20]) + (" ..." if len(names) > 20 else "")
    return f"no column {name!r} (its columns: {shown}): set text_column"
