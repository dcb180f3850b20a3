"""How one of our tensors is made of theirs, as data that reads both ways.

A tensor of ours is rows, each of which is a row of one Hugging Face tensor, or zeros that exist
only here (a padded vocabulary, padded heads). Columns pass through; where theirs are fewer, the
rest are zeros. From that one description follow loading (which slices make up a rank's shard),
saving (which rows make up a tensor of theirs), and every shape on either side.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Piece:
    """`rows` rows in sequence: those of `source` from `start` on, or zeros without a source."""

    rows: int
    source: str | None
    start: int = 0


@dataclass(frozen=True)
class Layout:
    """A matrix [rows, columns] or a vector [rows] of ours, in pieces from its first row on.

    source_columns: of their tensors; fewer than `columns` where ours is padded. keep_fp32: written
    in fp32 whatever the others are written in.
    """

    pieces: tuple[Piece, ...]
    columns: int | None = None
    source_columns: int | None = None
    keep_fp32: bool = False

    @property
    def rows(self) -> int:
        """Of the whole tensor."""
        return sum(piece.rows for piece in self.pieces)

    @property
    def shape(self) -> Shape:
        """Of the whole tensor."""
        return (self.rows,) if self.columns is None else (self.rows, self.columns)

    @property
    def their_columns(self) -> int | None:
        """Of every source."""
        return self.columns if self.source_columns is None else self.source_columns

    def sources(self) -> dict[str, Shape]:
        """Their tensors that have rows here, with their shapes."""
        rows: dict[str, int] = {}
        for piece in self.pieces:
            if piece.source is not None:
                end = piece.start + piece.rows
                rows[piece.source] = max(rows.get(piece.source, 0), end)
        columns = self.their_columns
        tail = () if columns is None else (columns,)
        return {name: (count, *tail) for name, count in rows.items()}

    def within(self, first: int, last: int) -> Iterator[Run]:
        """What rows [first, last) are, in order."""
        at = 0
        for piece in self.pieces:
            begin, end = max(first, at), min(last, at + piece.rows)
            if begin < end:
                yield Run(begin - first, end - begin, piece.source, piece.start + begin - at)
            at += piece.rows
            if at >= last:
                return


class Run(NamedTuple):
    """`rows` rows from `offset` of what was asked for on: `source`'s, from `start` on, or zeros."""

    offset: int
    rows: int
    source: str | None
    start: int


Tensors = Mapping[str, Layout]  # our name -> how it is made


def plain(source: str, *shape: int) -> Layout:
    """Their tensor as it is."""
    rows, *columns = shape
    return Layout((Piece(rows, source),), columns[0] if columns else None)


def stacked(parts: Mapping[str, int], columns: int | None) -> Layout:
    """Their tensors (name -> rows) one below the other."""
    return Layout(tuple(Piece(rows, name) for name, rows in parts.items()), columns)


def padded(source: str, rows: int, columns: int, padded_rows: int) -> Layout:
    """Their tensor with rows of zeros below it."""
    below = (Piece(padded_rows - rows, None),) if padded_rows > rows else ()
    return Layout((Piece(rows, source), *below), columns)


@dataclass(frozen=True)
class Heads:
    """Grouped attention: `groups` of keys and values, and `padding` more that are ours alone."""

    query_heads: int  # theirs
    groups: int  # theirs
    dim: int
    padding: int = 0

    def query_key_value(self, query: str, key: str, value: str, columns: int | None) -> Layout:
        """The joint projection: for every group its queries, then its key, then its value."""
        each = self.query_heads // self.groups * self.dim
        pieces = []
        for group in range(self.groups):
            pieces.append(Piece(each, query, group * each))
            pieces.append(Piece(self.dim, key, group * self.dim))
            pieces.append(Piece(self.dim, value, group * self.dim))
        if self.padding:
            pieces.append(Piece(self.padding * (each + 2 * self.dim), None))
        return Layout(tuple(pieces), columns)

    def output(self, source: str, rows: int) -> Layout:
        """The output projection, whose columns are heads."""
        theirs = self.query_heads * self.dim
        ours = theirs // self.groups * (self.groups + self.padding)
        return Layout((Piece(rows, source),), ours, theirs)
