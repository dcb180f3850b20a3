"""Stages as papers chained them: lists in `presets/*.yaml`, which a recipe names in one line.

stages:
  - preset: fineweb
  - decontaminate: {paths: eval/}
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .config_tree import convert
from .errors import InputError
from .yaml_text import read_yaml

if TYPE_CHECKING:  # a recipe's stages may be presets, so recipe.py imports this module
    from .recipe import StageChoice

_FOLDER = Path(__file__).parent / "presets"


@dataclass(frozen=True)
class Preset:
    """Stands for the stages of `presets/<name>.yaml`."""

    name: str

    def __post_init__(self) -> None:
        if self.name not in preset_names():
            near = difflib.get_close_matches(self.name, preset_names(), 1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(preset_names())}"
            raise InputError(f"no preset {self.name!r}; {hint}")


def preset_names() -> list[str]:
    """Every preset there is."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def spelled(name: str) -> list[Any]:
    """The stages of a preset as its file spells them: names, or {name: {key: value}}."""
    found = read_yaml(_FOLDER / f"{Preset(name).name}.yaml")
    assert isinstance(found, list), name
    return found


def preset(name: str) -> tuple[StageChoice, ...]:
    """The stages of a preset, in order. Raises InputError where there is none of that name."""
    from .recipe import StageChoice

    stages: tuple[StageChoice, ...] = convert(
        tuple[StageChoice, ...], spelled(name), f"preset {name}"
    )
    return expand(stages)


def expand(stages: Sequence[StageChoice]) -> tuple[StageChoice, ...]:
    """`stages` with those of a preset in its place."""
    found: list[StageChoice] = []
    for choice in stages:
        found += preset(choice.value.name) if isinstance(choice.value, Preset) else [choice]
    return tuple(found)
