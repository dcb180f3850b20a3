"""A recipe as a person would write it down: an entry of a list begins a line."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from ..yaml_text import to_yaml


def recipe_text(recipe: Mapping[str, Any]) -> str:
    """YAML that reads back as `recipe`, its lists of sections an entry under another."""
    return "".join(map(_top, recipe, recipe.values())) or "{}\n"


def _top(key: str, value: Any) -> str:
    entries = value if isinstance(value, (list, tuple)) else ()
    if not entries or not all(isinstance(entry, Mapping) and entry for entry in entries):
        return to_yaml({key: value})
    head = to_yaml({key: None}).removesuffix(" null\n")
    told = (textwrap.indent(to_yaml(entry), "    ") for entry in entries)
    return "\n".join([head, *(f"  - {one.lstrip()}".rstrip("\n") for one in told), ""])
