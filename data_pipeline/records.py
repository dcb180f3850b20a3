"""A byte stream cut into records, lines or elements of a JSON array, none held beyond a limit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

_QUOTE_OR_ESCAPE = re.compile(rb'["\\]')
_STRUCTURE = re.compile(rb'["\[\]{},]')
_QUOTE, _COMMA, _OPEN, _CLOSE = b'"', b",", b"[{", b"]}"


class Cut(NamedTuple):
    """A record where it stands in the stream."""

    offset: int  # bytes before it
    size: int  # bytes
    raw: bytes | None  # None where it is larger than the limit


class _Held:
    """The beginning of a record whose end has not come yet."""

    def __init__(self, limit: int, offset: int = 0) -> None:
        self.limit, self.offset = limit, offset
        self.size, self._pieces = 0, list[bytes]()

    def add(self, piece: bytes) -> None:
        self.size += len(piece)
        if self.size <= self.limit:
            self._pieces.append(piece)
        else:
            self._pieces.clear()

    def take(self) -> Cut:
        """The record, which ends here."""
        raw = b"".join(self._pieces) if self.size <= self.limit else None
        cut = Cut(self.offset, self.size, raw)
        self.offset += self.size
        self.size, self._pieces = 0, []
        return cut


def lines(pieces: Iterator[bytes], limit: int, offset: int = 0) -> Iterator[Cut]:
    """Every line with its newline; the last may have none. `offset`: of the first byte."""
    held = _Held(limit, offset)
    for piece in pieces:
        whole = piece.split(b"\n")
        rest = whole.pop()
        if whole and held.size:
            held.add(whole.pop(0) + b"\n")
            yield held.take()
        for line in whole:
            size = len(line) + 1
            yield Cut(held.offset, size, line + b"\n" if size <= limit else None)
            held.offset += size
        if rest:
            held.add(rest)
    if held.size:
        yield held.take()


class Elements:
    """The elements of a JSON array, cut apart without parsing them; blank ones are left out.

    `open`: the stream has ended, but not the array; an element that comes then may be half of one.
    Else `rest` is what follows the array, from byte `offset` on.
    """

    def __init__(self, pieces: Iterator[bytes], limit: int) -> None:
        self.open = False
        self.offset = 0
        self.rest: Iterator[bytes] = iter(())
        self._pieces, self._limit = pieces, limit

    def __iter__(self) -> Iterator[Cut]:
        held = _Held(self._limit)
        seen = depth = at = 0
        quoted = False
        for piece in self._pieces:
            start = 0  # of what belongs to the current element
            while at < len(piece):
                found = (_QUOTE_OR_ESCAPE if quoted else _STRUCTURE).search(piece, at)
                if found is None:
                    at = len(piece)
                    break
                sign, at = found.group(), found.end()
                if quoted:
                    quoted = sign != _QUOTE
                    at += quoted  # the escaped character, which may be in the next piece
                    continue
                quoted = sign == _QUOTE
                if depth == 1 and (sign == _COMMA or sign in _CLOSE):
                    held.add(piece[start : found.start()])
                    element = held.take()
                    if element.raw is None or element.raw.strip():
                        yield element
                depth += (sign in _OPEN) - (sign in _CLOSE)
                if not depth and sign in _CLOSE:
                    self.offset = seen + at
                    self.rest = chain([piece[at:]], self._pieces)
                    return
                if depth == 1 and (sign == _COMMA or sign in _OPEN):
                    held.offset, start = seen + at, at
            if depth:
                held.add(piece[start:])
            seen += len(piece)
            at -= len(piece)
        self.open = True
        last = held.take()
        if last.raw is None or last.raw.strip():
            yield last
