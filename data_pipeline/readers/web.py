"""The web: HTML files, and WARC and WET archives by fastwarc.

Pages are handed on as HTML; `stages.cleaning.HtmlToText` makes text of them.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ..files import storage_errors
from ..unpack import Damaged
from .options import Log, Record, printable
from .sources import DAMAGE, Source
from .tables import decoded

_HTML = ("text/html", "application/xhtml+xml")
_PIECE = 1 << 20
# The start of a record: a gzip member of its own, or a version line with a field under it.
_MEMBER = re.compile(rb"\x1f\x8b\x08")
_VERSION = re.compile(rb"WARC/[0-9]\.[0-9]\r?\n(?:WARC|Content)-")
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_LENGTH = re.compile(rb"(?i)\ncontent-length:[ \t]*([0-9]+)")
# What fastwarc raises on damage; UnicodeDecodeError is a ValueError.
_BROKEN = (*DAMAGE, ValueError, OverflowError, MemoryError)


def read_html(source: Source, log: Log) -> Iterator[Record]:
    """A page a file."""
    limit = log.options.max_document_bytes
    with source.open() as stream:
        try:
            raw = stream.read(limit + 1)
        except DAMAGE as error:
            log.reject(source.name, "", f"the data is truncated or damaged ({error})")
            return
    if len(raw) > limit:
        log.reject(source.name, "", f"larger than {limit} bytes: raise max_document_bytes")
        return
    yield Record(_decode_html(raw, None, log), "0", None, _HTML[0])


def _decode_html(raw: bytes, charset: str | None, log: Log) -> str:
    """A page as browsers read it: bad bytes never stop it, they become U+FFFD and are counted.

    The character set is that of the HTTP header, else UTF-8 where the bytes are valid in it, else
    that of the page's meta element, else what uchardet detects.
    """
    from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5

    if charset and (named := map_encoding_to_html5(charset, False)) and named != "utf-8":
        try:
            return printable(raw.decode(named).removeprefix("\ufeff"))
        except (LookupError, UnicodeError):
            pass
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        pass
    encoding = detect_encoding(raw, from_html_meta=True) or "utf-8"
    try:
        return printable(raw.decode(encoding).removeprefix("\ufeff"))
    except (LookupError, UnicodeError):
        log.counts.replaced += 1
        return raw.decode("utf-8", "replace").removeprefix("\ufeff")


def read_warc(source: Source, log: Log) -> Iterator[Record]:
    """HTML of `response` records with a status of 2xx, and texts of `conversion` records (WET).

    Damage costs the records that it touches: reading goes on at the next start of a record (a gzip
    member, or a version line). One stretch of damage is one reject.
    """
    with source.open() as opened, _seekable(source, log, opened) as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(0)
        packed = stream.read(2) == b"\x1f\x8b"
        start: int | None = 0
        damaged = False
        while start is not None:
            last, read = start, False
            try:
                for at, record, block in _records(stream, start, None if packed else size, log):
                    last, read, damaged = at, True, False
                    yield from _pages(source, log, at, record, block)
                rest = _behind(stream, last, read, packed)
                if rest is None:
                    return
                if rest > last and _is_record(stream, rest, packed):
                    start = rest
                    continue
                raise _Cut(rest, "no whole record")
            except _TooLarge as error:
                last = error.at
                log.reject(source.name, f"record at byte {last}", str(error))
            except _BROKEN as error:
                last = getattr(error, "at", last)
                if not damaged:
                    log.reject(source.name, f"record at or after byte {last}", f"broken ({error})")
                damaged = True
            start = _next_record(stream, last + 1, packed)


@contextmanager
def _seekable(source: Source, log: Log, stream: IO[bytes]) -> Iterator[IO[bytes]]:
    """`stream`, or a copy on disk where it is one that cannot be searched for the next record."""
    if stream.seekable():
        yield stream
        return
    with storage_errors(Path(tempfile.gettempdir())), tempfile.TemporaryFile() as copy:
        damage = ""
        try:
            shutil.copyfileobj(stream, copy, _PIECE)
        except Damaged as error:
            damage = f"the data is truncated or damaged ({error})"
        copy.seek(0)
        yield copy
        if damage:
            log.reject(source.name, "", damage)


class _Cut(ValueError):
    def __init__(self, at: int, what: str) -> None:
        super().__init__(what)
        self.at = at


class _TooLarge(Exception):
    def __init__(self, at: int, what: str) -> None:
        super().__init__(what)
        self.at = at


def _records(
    stream: IO[bytes], start: int, size: int | None, log: Log
) -> Iterator[tuple[int, Any, bytes]]:
    """(byte where it starts, record, its whole block) from `start` on, up to the first damage."""
    from fastwarc.warc import ArchiveIterator

    limit = log.options.max_document_bytes
    stream.seek(start)
    for record in ArchiveIterator(stream, parse_http=False):
        at, length = record.stream_pos, record.content_length
        if size is not None and at + length > size:
            raise _Cut(at, f"{length} bytes announced, {size - at} bytes left in the file")
        if length > limit:
            raise _TooLarge(at, f"{length} bytes, over max_document_bytes {limit}")
        block = record.reader.read()
        if len(block) != length:
            raise _Cut(at, f"{length} bytes announced, {len(block)} there")
        yield at, record, block


def _next_record(stream: IO[bytes], start: int, packed: bool) -> int | None:
    """The byte at or after `start` where a record seems to start; None where there is none."""
    pattern = _MEMBER if packed else _VERSION
    overlap = 32  # bytes that a match may take
    at = start
    while True:
        stream.seek(at)
        piece = stream.read(_PIECE + overlap)
        for match in pattern.finditer(piece):
            found = at + match.start()
            if not packed or _is_record(stream, found, packed):
                return found
        if len(piece) < _PIECE + overlap:
            return None
        at += _PIECE


def _behind(stream: IO[bytes], at: int, read: bool, packed: bool) -> int | None:
    """Where something stands behind the record at `at` (or there, where it was not read).

    fastwarc takes much for the end of a file: an empty member, a broken head of one, a record's
    head that is cut.
    """
    while packed:
        end, content = _member(stream, at)
        if end is None or (content and not read):
            return None if at == stream.seek(0, os.SEEK_END) else at
        at, read = end, False
    if read:
        stream.seek(at)
        head = _HEAD_END.search(stream.read(_PIECE))
        if head is None:
            return at
        length = _LENGTH.search(head.string, 0, head.end())
        at += head.end() + (int(length[1]) if length else 0)
    stream.seek(at)
    while piece := stream.read(_PIECE):
        if rest := piece.lstrip():
            return at + len(piece) - len(rest)
        at += len(piece)
    return None


def _member(stream: IO[bytes], at: int) -> tuple[int | None, bool]:
    """(where the gzip member at `at` ends, if it is whole; whether there is anything in it)."""
    stream.seek(at)
    member = zlib.decompressobj(31)
    content, data = False, stream.read(_PIECE)
    while data:
        try:
            content = bool(member.decompress(data, _PIECE).strip()) or content
        except zlib.error:
            return None, content
        at += len(data) - len(member.unconsumed_tail) - len(member.unused_data)
        if member.eof:
            return at, content
        data = member.unconsumed_tail or stream.read(_PIECE)
    return None, content


def _is_record(stream: IO[bytes], at: int, packed: bool) -> bool:
    """Whether there is a record at `at`; three bytes can look like a gzip member."""
    stream.seek(at)
    if not packed:
        return stream.read(5) == b"WARC/"
    try:
        return zlib.decompressobj(31).decompress(stream.read(4096), 16).startswith(b"WARC/")
    except zlib.error:
        return False


def _pages(source: Source, log: Log, at: int, record: Any, block: bytes) -> Iterator[Record]:
    from fastwarc.warc import WarcRecordType

    where = f"record at byte {at}"
    id = printable(record.headers.get("WARC-Record-ID") or str(at))
    url = record.headers.get("WARC-Target-URI")
    url = printable(url) if url else None
    if record.record_type == WarcRecordType.conversion:
        text = decoded(source, log, where, block)
        if text is not None:
            yield Record(text, id, url, "text/plain")
        return
    if record.record_type != WarcRecordType.response:
        log.counts.not_text += record.record_type != WarcRecordType.warcinfo
        return
    page = _http(block)
    if page is None:
        log.reject(source.name, where, "no HTTP response inside")
        return
    if not 200 <= page.http_headers.status_code < 300 or page.http_content_type not in _HTML:
        log.counts.not_text += 1
        return
    limit = log.options.max_document_bytes
    try:
        body = page.reader.read(limit + 1)
    except _BROKEN as error:
        log.reject(source.name, where, f"the page cannot be unpacked ({error})")
        return
    if len(body) > limit:
        log.reject(source.name, where, f"unpacked larger than max_document_bytes {limit}")
        return
    yield Record(_decode_html(body, page.http_charset, log), id, url, page.http_content_type)


def _http(block: bytes) -> Any:
    """The HTTP response in `block`, its body unpacked as its headers say, if it can be."""
    from fastwarc.warc import WarcRecord, WarcRecordType

    # Many crawlers store the body unpacked under the headers that it had on the wire.
    for decode in ("all", "none"):
        record = WarcRecord()
        record.init_headers(WarcRecordType.response)
        record.is_http = True
        record.set_bytes_content(block)
        try:
            record.parse_http(auto_decode=decode)
        except _BROKEN:
            continue
        headers = record.http_headers
        return record if headers is not None and headers.status_code is not None else None
    return None
