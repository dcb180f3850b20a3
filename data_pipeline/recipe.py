"""A recipe: what is read, and what happens to it in which order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .config_tree import OneOf, hash_tree, to_dict
from .documents import OnError, SplitText
from .errors import InputError
from .presets import Preset, expand
from .stages.registry import stage_classes


class StageChoice(OneOf):
    """A stage by its name, with its parameters."""

    @classmethod
    def known(cls) -> Mapping[str, type]:
        """Every stage there is, and `preset`, which stands for several."""
        return {**stage_classes(), "preset": Preset}


@dataclass(frozen=True, kw_only=True)
class Source:
    """Files that are read alike."""

    name: str  # of what is made of them
    paths: tuple[str, ...]  # files, folders, globs, python-docs
    text_key: str = "text"  # of a record
    split_text: SplitText = "file"  # a text file is one document, or one for each paragraph
    on_error: OnError = "skip"  # a record that cannot be read: fail | skip | replace

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name or self.name.startswith("."):
            raise InputError(f"name {self.name!r}: a file name without folders")
        if not self.paths:
            raise InputError(f"paths of {self.name}: name files, folders or globs")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Sources, and the stages that all their documents go through."""

    sources: tuple[Source, ...] = ()
    stages: tuple[StageChoice, ...] = ()
    part_bytes: int = 256 << 20  # of input files for one task; a larger file is a task of its own

    def __post_init__(self) -> None:
        names = [source.name for source in self.sources]
        if not names:
            raise InputError("sources: name at least one")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InputError(f"sources: {twice[0]!r} is named twice")
        if self.part_bytes < 1:
            raise InputError(f"part_bytes {self.part_bytes}: 1 or more")
        object.__setattr__(self, "stages", expand(self.stages))

    @property
    def fingerprint(self) -> str:
        """sha256 of everything that decides the result, without looking at any file."""
        return hash_tree(to_dict(self))
