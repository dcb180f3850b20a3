"""A strict reader of dataclass trees: one command form for every script, `--config file key=value`.

    load       YAML file + dotted overrides -> tree; anything unknown or ill-typed is an error
    dump_yaml  a text that loads to an equal tree; `fingerprint` hashes the same tree

Any frozen keyword-only dataclass tree will do. Nothing here knows what a run or a recipe is.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from .errors import InputError
from .yaml_text import parse_yaml, read_yaml, to_yaml

T = TypeVar("T")
COMMAND_LINE = "command line"


@dataclass(frozen=True)
class OneOf:
    """A value that names its own kind: `name`, or `{name: {key: value, ...}}`.

    A kind with one key may be given its value alone: `{name: value}`. Subclasses say which
    dataclasses there are; a field of such a type holds one of them.
    """

    name: str
    value: Any  # an instance of known()[name]

    @classmethod
    def known(cls) -> Mapping[str, type]:
        """Name -> dataclass."""
        raise NotImplementedError


def load(cls: type[T], path: str | Path | None = None, overrides: Sequence[str] = ()) -> T:
    """The tree `cls` from a YAML file (or from defaults alone), then `a.b.c=value` overrides.

    A value is YAML: `null` is None, `[1, 2]` a tuple, `{k: v}` a mapping or a whole section, which
    it replaces. An override inside a section that is None creates that section. Overrides apply in
    order. Raises InputError, naming file and dotted key, for whatever does not fit.
    """
    tree: dict[str, Any] = {}
    if path is not None:
        tree = _section(cls, read_yaml(Path(path)), _Place("", str(path)))
    for override in overrides:
        _assign(cls, tree, override)
    return _build(cls, tree, _Place("", COMMAND_LINE if path is None else str(path)))


def convert(annotation: Any, value: Any, source: str) -> Any:
    """Plain types read from `source` as the annotated type; InputError where they do not fit."""
    return _convert(annotation, value, _Place("", source))


@dataclass(frozen=True)
class _Place:
    """Where a value stands, for error messages: its dotted key, and the file or command line."""

    key: str
    source: str

    def under(self, name: str) -> _Place:
        return _Place(f"{self.key}.{name}" if self.key else name, self.source)

    def error(self, message: str) -> InputError:
        return InputError(f"{self.source}: {self.key + ': ' if self.key else ''}{message}")

    def wrong(self, value: Any, expected: str) -> InputError:
        got = "nothing" if value is None else f"{value!r} ({type(value).__name__})"
        quote = expected.startswith("text") and isinstance(value, (int, float))
        return self.error(f"got {got}, expected {expected}" + "; quote it" * quote)


def _section(cls: type, value: Any, place: _Place) -> dict[str, Any]:
    """A mapping checked against the fields of `cls`, its leaves converted, its sections dicts."""
    if value is None:  # `section:` with every line below commented out
        return {}
    if not isinstance(value, Mapping):
        raise place.wrong(value, f"a section with the keys {', '.join(_fields(cls))}")
    return {
        name: _convert(_field(cls, name, place), v, place.under(name)) for name, v in value.items()
    }


def _assign(cls: type, tree: dict[str, Any], override: str) -> None:
    """Apply one `a.b.c=value` to `tree` in place."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise InputError(
            f"{COMMAND_LINE}: {override!r} is not of the form key=value, as in optimizer.lr=1e-3"
        )
    names = key.strip().split(".")
    place = _Place("", COMMAND_LINE)
    for depth, name in enumerate(names):
        annotation = _field(cls, name, place)
        place = place.under(name)
        rest = names[depth + 1 :]
        nested = _dataclass_in(annotation)
        if not rest or nested is None:
            break
        if not isinstance(tree.get(name), dict):
            tree[name] = {}
        cls, tree = nested, tree[name]
    value = _typed(annotation, text, f"{COMMAND_LINE}: {key}")
    if not rest:
        tree[name] = _convert(annotation, value, place)
    elif any(typing.get_origin(member) is dict for member in _members(annotation)):
        entry = _convert(annotation, {".".join(rest): value}, place)
        tree[name] = {**(tree.get(name) or {}), **entry}
    else:
        raise place.error(f"has no key {'.'.join(rest)!r} below it; set {place.key}=value")


def _typed(annotation: Any, text: str, source: str) -> Any:
    """A value as typed on the command line: YAML, but plain text where the key holds text.

    So `run.dir=2026` and `data.corpus=*.txt` need no second pair of quotes.
    """
    plain = text.strip() not in ("", "null", "~") and text.lstrip()[0] not in "\"'[{"
    if plain and any(member is str or _texts(member) for member in _members(annotation)):
        return text
    return parse_yaml(text, source)


def _build(cls: type[T], tree: Mapping[str, Any], place: _Place) -> T:
    """The dataclass of a converted tree; sections that are absent take their defaults."""
    values: dict[str, Any] = {}
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        here = place.under(field.name)
        nested = _dataclass_in(hints[field.name])
        if field.name not in tree:
            if field.default is field.default_factory is dataclasses.MISSING:
                listed = any(name.isdecimal() for name in here.key.split("."))
                how = f"add {field.name}: value" if listed else f"set {here.key}=value"
                raise here.error(f"is required; {how}")
        elif nested is not None and isinstance(tree[field.name], dict):
            values[field.name] = _build(nested, tree[field.name], here)
        else:
            values[field.name] = tree[field.name]
    return cls(**values)


# --- Types --------------------------------------------------------------------


def _fields(cls: type) -> list[str]:
    return [field.name for field in dataclasses.fields(cls)]


def _field(cls: type, name: Any, place: _Place) -> Any:
    """The annotation of a field, or an InputError that names the nearest one."""
    if name in _fields(cls):
        return typing.get_type_hints(cls)[name]
    dotted = place.under(str(name)).key
    near = [key for key in leaves(cls, place.key) if key.split(".")[-1] == name]
    if not near:
        matches = difflib.get_close_matches(str(name), _fields(cls), n=1)
        near = [place.under(match).key for match in matches]
    hint = f"did you mean {' or '.join(near)}?"
    if not near:
        hint = f"known here: {', '.join(_fields(cls))}"
    raise InputError(f"{place.source}: unknown key {dotted}; {hint}")


def leaves(cls: type, prefix: str = "") -> Iterator[str]:
    """Every dotted key of a dataclass tree, sections opened."""
    for name, annotation in typing.get_type_hints(cls).items():
        key = f"{prefix}.{name}" if prefix else name
        nested = _dataclass_in(annotation)
        if nested is None:
            yield key
        else:
            yield from leaves(nested, key)


def _members(annotation: Any) -> tuple[Any, ...]:
    """The members of a union, or the annotation itself."""
    if typing.get_origin(annotation) in (Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def _dataclass_in(annotation: Any) -> type | None:
    """The section an annotation allows: `X` or `X | None` with X a dataclass."""
    for member in _members(annotation):
        if isinstance(member, type) and dataclasses.is_dataclass(member):
            return None if issubclass(member, OneOf) else member
    return None


def _convert(annotation: Any, value: Any, place: _Place) -> Any:
    """`value` as the annotated type, sections as dicts. Raises InputError where it does not fit."""
    members = _members(annotation)
    if types.NoneType in members and value is None:
        return None
    candidates = [member for member in members if member is not types.NoneType]
    section = _dataclass_in(annotation)
    if isinstance(value, Mapping) and section is not None:  # what is wrong in it is said there
        return _convert_one(section, value, place)
    for member in candidates[:-1]:
        try:
            return _convert(member, value, place)
        except InputError:
            continue
    if len(candidates) == 1:
        return _convert_one(candidates[0], value, place)
    try:
        return _convert_one(candidates[-1], value, place)
    except InputError:
        raise place.wrong(value, describe(annotation)) from None


def _convert_one(kind: Any, value: Any, place: _Place) -> Any:
    """`value` as a type that is not a union."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if isinstance(kind, type) and issubclass(kind, OneOf):
        return _one_of(kind, value, place)
    if dataclasses.is_dataclass(kind):
        return _section(kind, value, place)  # type: ignore[arg-type]
    if origin is Literal:
        if any(type(choice) is type(value) and choice == value for choice in arguments):
            return value
        raise place.wrong(value, describe(kind))
    if origin is tuple:
        return _convert_tuple(kind, arguments, value, place)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise place.wrong(value, describe(kind))
        return {_convert(arguments[0], k, place): _convert(arguments[1], v, place.under(str(k)))
                for k, v in value.items()}  # fmt: skip
    if kind is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if kind in (int, bool, str) and type(value) is kind:
        return value
    if kind not in (int, float, bool, str):
        raise TypeError(f"{place.key}: fields of type {kind} cannot be configured")
    raise place.wrong(value, describe(kind))


def _one_of(kind: type[OneOf], value: Any, place: _Place) -> OneOf:
    entry = {value: None} if isinstance(value, str) else value
    if not isinstance(entry, Mapping) or len(entry) != 1:
        raise place.wrong(value, describe(kind))
    [(name, settings)] = entry.items()
    known = kind.known()
    if name not in known:
        near = difflib.get_close_matches(str(name), known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(known))}"
        raise place.error(f"no {name!r}; {hint}")
    here, keys = place.under(name), _fields(known[name])
    if settings is not None and not isinstance(settings, Mapping) and len(keys) == 1:
        settings = {keys[0]: settings}
    section = known[name]
    return _placed(
        here, lambda: kind(name, _build(section, _section(section, settings, here), here))
    )


def _convert_tuple(kind: Any, arguments: tuple[Any, ...], value: Any, place: _Place) -> Any:
    if _texts(kind) and isinstance(value, str):
        return (value,)
    if not isinstance(value, (list, tuple)):
        raise place.wrong(value, describe(kind))
    items = arguments[:1] * len(value) if arguments[1:] == (...,) else arguments
    if len(items) != len(value):
        raise place.wrong(value, describe(kind))
    return tuple(
        _convert_entry(item, entry, place.under(str(index)))
        for index, (item, entry) in enumerate(zip(items, value, strict=True))
    )


def _texts(kind: Any) -> bool:
    """A list whose entries may be text: one of them needs no brackets."""
    arguments = typing.get_args(kind)
    return (
        typing.get_origin(kind) is tuple
        and arguments[1:] == (...,)
        and (str in _members(arguments[0]))
    )


def _convert_entry(item: Any, entry: Any, place: _Place) -> Any:
    """An entry of a list: overrides do not reach into it, so a section there is complete."""
    value, nested = _convert(item, entry, place), _dataclass_in(item)
    if nested is None or not isinstance(value, dict):
        return value
    return _placed(place, lambda: _build(nested, value, place))


def _placed(place: _Place, build: Callable[[], T]) -> T:
    """What `build` gives; an error of a dataclass itself, which does not know where it stands, is
    given its place."""
    try:
        return build()
    except InputError as error:
        message = str(error)
        raise error if message.startswith(place.source) else place.error(message) from None


_NAMES = {int: "an integer", float: "a number", bool: "true or false", str: "text"}


def describe(annotation: Any) -> str:
    """A type in words, for people who have a YAML file before them."""
    members = _members(annotation)
    if len(members) > 1:
        named = [describe(m) for m in members if m is not types.NoneType]
        return " or ".join(named + ["null"] * (types.NoneType in members))
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    section = _dataclass_in(annotation)
    if section is not None:
        return f"a section with the keys {', '.join(_fields(section))}"
    if isinstance(annotation, type) and issubclass(annotation, OneOf):
        return f"a name or {{name: {{key: value}}}} of: {', '.join(sorted(annotation.known()))}"
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin is tuple and arguments[1:] == (...,):
        return f"a list, each entry {describe(arguments[0])}"
    if origin is tuple:
        return f"a list of {len(arguments)}: {', '.join(map(describe, arguments))}"
    if origin is dict:
        return f"a mapping from {describe(arguments[0])} to {describe(arguments[1])}"
    return _NAMES.get(annotation, str(getattr(annotation, "__name__", annotation)))


# --- Writing ------------------------------------------------------------------


def to_dict(config: Any) -> dict[str, Any]:
    """The tree in the types of YAML and JSON: dict, list, str, int, float, bool, None."""

    def plain(value: Any) -> Any:
        if isinstance(value, OneOf):
            return {value.name: plain(value.value)}
        if dataclasses.is_dataclass(value):
            return {name: plain(getattr(value, name)) for name in _fields(type(value))}
        if isinstance(value, dict):
            return {key: plain(entry) for key, entry in value.items()}
        return [plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value

    result = plain(config)
    assert isinstance(result, dict)
    return result


def dump_yaml(config: Any) -> str:
    """YAML text that `load` reads back to an equal tree."""
    return to_yaml(to_dict(config))


def fingerprint(config: Any) -> str:
    """sha256 of the whole tree: equal exactly when two configurations are."""
    return hash_tree(to_dict(config))


def hash_tree(tree: Any) -> str:
    """sha256 of a tree of plain types, whatever the order of its keys."""
    canonical = json.dumps(tree, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()
