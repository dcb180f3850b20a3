"""What a report holds: plain facts, to JSON and back.

Whoever runs a recipe fills it; the page is drawn from it and from nothing else, so report.json is
enough to draw the page again. Bytes are of UTF-8 text, seconds of CPU where they are not called
wall.
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..readers.options import Counts
from ..stages.tally import EXAMPLES, Example, Tally
from ..yaml_text import parse_yaml
from .recipe_text import recipe_text

FORMAT = 1
PROBLEMS = 10  # of a source
NAME = 300  # characters of an id, a file's name or a problem: they are hostile input too


def clipped(name: str) -> str:
    """A name of any length, its middle left out where it is longer than NAME."""
    half = NAME // 2
    return name if len(name) <= NAME else f"{name[:half]}…{name[1 - half :]}"


@dataclass(frozen=True)
class SourceFacts:
    """What reading a source met."""

    name: str
    documents: int
    bytes: int  # of text
    skipped: int = 0  # records that could not be read
    empty: int = 0  # records without text
    problems: tuple[str, ...] = ()  # the first of them

    @classmethod
    def of(cls, name: str, counts: Counts) -> SourceFacts:
        """From what the readers counted."""
        problems = tuple(map(clipped, counts.first_problems[:PROBLEMS]))
        return cls(
            name, counts.documents, counts.text_bytes, counts.skipped, counts.empty, problems
        )


@dataclass(frozen=True)
class StageFacts:
    """What a stage did: its `Tally`, closed."""

    name: str
    documents_in: int
    documents_out: int
    bytes_in: int
    bytes_out: int
    changed: int = 0  # documents whose text is another than it was
    dropped: dict[str, int] = field(default_factory=dict)  # reason -> documents
    examples: dict[str, tuple[Example, ...]] = field(default_factory=dict)  # of each reason
    seconds: float = 0.0

    @classmethod
    def of(cls, name: str, tally: Tally) -> StageFacts:
        """From the account of the whole corpus."""
        examples = {
            reason: tuple(
                replace(one, source=clipped(one.source), id=clipped(one.id))
                for one in found[:EXAMPLES]
            )
            for reason, found in tally.examples.items()
        }
        account = {**vars(tally), "dropped": dict(tally.dropped), "examples": examples}
        return cls(name=name, **account)


@dataclass(frozen=True)
class Lengths:
    """How long the documents are that stayed, in characters.

    counts[i] documents have edges[i] to edges[i + 1] - 1 characters, so there is one edge more.
    """

    edges: tuple[int, ...] = ()
    counts: tuple[int, ...] = ()
    shortest: int = 0
    longest: int = 0
    characters: int = 0  # of all

    @property
    def documents(self) -> int:
        """How many there are."""
        return sum(self.counts)


@dataclass(frozen=True)
class Member:
    """A document of a cluster."""

    source: str
    id: str
    text: str  # a piece of it, the same stretch of every member
    kept: bool
    similarity: float | None = None  # Jaccard, with the one that is kept; None: never compared
    start: int = 0  # characters of the document before the piece
    characters: int = 0  # of the whole document


@dataclass(frozen=True)
class Cluster:
    """Documents that are near-duplicates of each other; the one that is kept comes first."""

    size: int  # documents
    members: tuple[Member, ...]  # some of them


@dataclass(frozen=True)
class ShardFacts:
    """What training will read."""

    name: str
    documents: int
    tokens: int
    bytes: int
    weight: float  # of the blend; shares are weights over their sum
    splits: dict[str, int] = field(default_factory=dict)  # train, validation, test -> tokens


@dataclass(frozen=True)
class Report:
    """A recipe that was run."""

    recipe: dict[str, Any]  # as it was resolved: plain types
    sources: tuple[SourceFacts, ...] = ()
    stages: tuple[StageFacts, ...] = ()  # in order
    languages: dict[str, int] = field(default_factory=dict)  # code -> documents, of those asked
    lengths: Lengths = field(default_factory=Lengths)
    clusters: tuple[Cluster, ...] = ()  # the largest
    shards: tuple[ShardFacts, ...] = ()
    tokenizer: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    title: str = "Data recipe"

    def to_json(self) -> dict[str, Any]:
        """Plain types. The recipe is its YAML, which a run reads again as it is."""
        return {"format": FORMAT, **asdict(self), "recipe": recipe_text(self.recipe)}

    @staticmethod
    def from_json(plain: Any, where: str = "report") -> Report:
        """The inverse of `to_json`; InputError, naming the key, for what does not fit."""
        if not isinstance(plain, Mapping) or plain.get("format") != FORMAT:
            raise InputError(f"{where}: not a report of format {FORMAT}: make it again")
        tree = {key: value for key, value in plain.items() if key != "format"}
        if isinstance(tree.get("recipe"), str):
            tree["recipe"] = parse_yaml(tree["recipe"], f"{where}: recipe")
        report = _read(Report, tree, where)
        assert isinstance(report, Report)
        return report

    @staticmethod
    def load(path: Path) -> Report:
        """A report.json; InputError if it cannot be read."""
        try:
            plain = json.loads(path.read_bytes())
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from error
        except ValueError as error:
            raise InputError(f"{path}: not JSON ({error}): make the report again") from error
        return Report.from_json(plain, str(path))


def _read(kind: Any, value: Any, where: str) -> Any:
    """`value`, of JSON, as the annotated type."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin is types.UnionType:  # X | None
        return None if value is None else _read(arguments[0], value, where)
    if is_dataclass(kind) and isinstance(value, Mapping):
        hints = typing.get_type_hints(kind)
        unknown = sorted(set(value) - set(hints))
        if unknown:
            raise InputError(f"{where}: unknown key {unknown[0]!r}: made by another version")
        read = {name: _read(hints[name], one, f"{where}: {name}") for name, one in value.items()}
        missing = [one.name for one in fields(kind) if one.name not in read]
        if missing:
            raise InputError(f"{where}: {missing[0]} is missing: make the report again")
        return kind(**read)  # type: ignore[operator]
    if origin is tuple and isinstance(value, (list, tuple)):
        return tuple(_read(arguments[0], one, f"{where} {i}") for i, one in enumerate(value))
    if origin is dict and isinstance(value, Mapping):
        return {key: _read(arguments[1], one, f"{where}: {key}") for key, one in value.items()}
    if kind is float and type(value) is int:
        return float(value)
    if kind in (str, int, float, bool) and type(value) is kind:
        return value
    name = getattr(origin or kind, "__name__", str(kind))
    raise InputError(f"{where}: {type(value).__name__} where {name} belongs: make the report again")
