"""What a caller may ask of the readers, and what reading met: counts and rejected records."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import orjson
import pyarrow as pa

from ..documents import OnError, ReadCounts, SplitText
from ..errors import InputError
from ..files import appearing
from ..stages.stage import COLUMNS

MIB = 1 << 20
MIME = pa.field("mime", pa.string())


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How to read; every field has a default that suits a crawl."""

    # column or JSON key of the text
    text_column: str = "text"
    # column or JSON key of the document's id; its position in the file where there is none
    id_column: str = "id"
    # column or JSON key of the document's address; null where there is none
    url_column: str = "url"
    # bytes of a batch over all columns; only a larger document makes a larger batch
    batch_bytes: int = 8 * MIB
    # bytes of a document, and of a line of CSV or JSON; larger ones are rejected
    max_document_bytes: int = 64 * MIB
    # a column `mime` after those of COLUMNS: what web archives and HTML files say the text is
    with_mime: bool = False
    # plain text files as one document, or as one per block between blank lines
    split_text: SplitText = "file"
    # damage: reject the record and go on; stop with InputError; or read bad UTF-8 with U+FFFD
    on_error: OnError = "skip"
    # where rejected records are listed, one JSON object {source, where, what} a line
    rejects: Path | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.batch_bytes <= 1024 * MIB:
            raise InputError(f"batch_bytes {self.batch_bytes}: from 1 to {1024 * MIB}")
        if not 1 <= self.max_document_bytes <= 1024 * MIB:
            raise InputError(f"max_document_bytes {self.max_document_bytes}: 1 to {1024 * MIB}")
        if self.on_error not in ("fail", "skip", "replace"):
            raise InputError(f"on_error {self.on_error!r}: fail, skip or replace")
        if self.split_text not in ("file", "paragraphs"):
            raise InputError(f"split_text {self.split_text!r}: file or paragraphs")
        if not self.text_column:
            raise InputError("text_column is empty: name the column that holds the text")

    @property
    def schema(self) -> pa.Schema:
        """Of every batch."""
        return COLUMNS.append(MIME) if self.with_mime else COLUMNS


@dataclass
class Counts(ReadCounts):
    """What reading met; `file_bytes` counts local files only, as text and JSON lines report it."""

    # records of a web archive that hold no page: images, redirects, errors of the server
    not_text: int = 0


class Record(NamedTuple):
    """A document as a reader of single records finds it."""

    text: str
    id: str
    url: str | None = None
    mime: str | None = None


class Log:
    """Counts what is read and what is rejected; at the end of its context the list is in place.

    A file may hold nothing but damage, so the list is written as it grows.
    """

    def __init__(self, options: ReadOptions, counts: Counts) -> None:
        self.options = options
        self.counts = counts
        self._list: IO[bytes] | None = None
        self._context = ExitStack()

    def __enter__(self) -> Log:
        if self.options.rejects is not None:
            self._list = self._context.enter_context(appearing(self.options.rejects))
        return self

    def __exit__(self, *error: Any) -> None:
        self._context.__exit__(*error)

    def reject(self, source: str, where: str, what: str, records: int = 1) -> None:
        """`records` of `source` are left out, or InputError where damage is to stop the run."""
        where, what = shortened(where), shortened(what)
        message = ", ".join(part for part in (source, where) if part) + f": {what}"
        if self.options.on_error == "fail":
            raise InputError(f"{message}; mend it, or set on_error=skip to go on without it")
        self.counts.skipped += records
        if len(self.counts.first_problems) < 10:
            self.counts.first_problems.append(message)
        if self._list is not None:
            entry = {"source": source, "where": where, "what": what}
            self._list.write(orjson.dumps({k: printable(v) for k, v in entry.items()}) + b"\n")


def shortened(what: str, limit: int = 500) -> str:
    """One line of `limit` characters at most: it may quote what a file holds."""
    line = " ".join(what[: 4 * limit].split())
    return line if len(line) <= limit else line[: limit - 4] + " ..."


def printable(text: str) -> str:
    """`text` with lone surrogates (of file names, of JSON escapes) made U+FFFD: UTF-8 has none."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
