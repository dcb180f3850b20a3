"""Compressed files as pieces of a bounded size; nothing in front of damage is lost.

`gzip.GzipFile` hands over whole buffers, so a cut or a flipped bit costs up to a buffer of what
could be read; `zstandard.stream_reader` takes a cut file for a whole one. Here both give what can
be decompressed, and then say what is wrong.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from typing import IO

PIECE = 1 << 20  # bytes; no piece is larger
_READ = PIECE >> 2
_ZSTD_READ = 1 << 10  # a byte of zstd can stand for 32 KiB, and its decoder has no limit of its own


class Damaged(EOFError):
    """Compressed data that is truncated or broken."""


def unpacked(raw: IO[bytes], name: str) -> Iterator[bytes]:
    """The content of `raw`, unpacked where `name` ends in .gz or .zst.

    Raises Damaged behind the last byte that can be read.
    """
    lower = name.lower()
    if lower.endswith(".gz"):
        return _gunzip(raw)
    return _unzstd(raw) if lower.endswith(".zst") else _plain(raw)


def open_unpacked(raw: IO[bytes], name: str) -> IO[bytes]:
    """The same as a file to read from."""
    return io.BufferedReader(_Stream(unpacked(raw, name)), PIECE)


def _plain(raw: IO[bytes]) -> Iterator[bytes]:
    while piece := raw.read(PIECE):
        yield piece


def _gunzip(raw: IO[bytes]) -> Iterator[bytes]:
    """Member by member; zero bytes between them are padding (gzip's manual, "tapes")."""
    member = None
    while data := raw.read(_READ):
        while data:
            if member is None:
                data = data.lstrip(b"\0")
                if not data:
                    break
                member = zlib.decompressobj(31)
            before = member.copy()
            try:
                piece = member.decompress(data, PIECE)
            except zlib.error as error:
                yield from _up_to_damage(before, data)
                raise Damaged(str(error)) from error
            if piece:
                yield piece
            data = member.unused_data if member.eof else member.unconsumed_tail
            member = None if member.eof else member
    if member is not None:
        if rest := member.flush():
            yield rest
        raise Damaged("it ends inside a gzip member")


def _up_to_damage(member: zlib._Decompress, data: bytes) -> Iterator[bytes]:
    """What `data` gives before the error that is in it: zlib drops the output of a failed call."""
    step = PIECE >> 1
    while step:
        attempt = member.copy()
        try:
            piece = attempt.decompress(data, step)
        except zlib.error:
            step >>= 1
            continue
        if piece:
            yield piece
        member, data = attempt, attempt.unconsumed_tail
        if not piece:
            break
    for at in range(len(data)):  # the last byte comes together with the error, were it given all
        try:
            if piece := member.decompress(data[at : at + 1]):
                yield piece
        except zlib.error:
            return


def _unzstd(raw: IO[bytes]) -> Iterator[bytes]:
    import zstandard

    frame = None
    try:
        while data := raw.read(_ZSTD_READ):
            while data:
                frame = frame or zstandard.ZstdDecompressor().decompressobj()
                piece = frame.decompress(data)
                for start in range(0, len(piece), PIECE):
                    yield piece[start : start + PIECE]
                data = frame.unused_data if frame.eof else b""
                frame = None if frame.eof else frame
    except zstandard.ZstdError as error:
        raise Damaged(str(error)) from error
    if frame is not None:
        raise Damaged("it ends inside a zstd frame")


class _Stream(io.RawIOBase):
    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size
