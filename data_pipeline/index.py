"""What a prepared corpus keeps for later ones to be compared with: `<out>/index/<stage>/<part>`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import InputError
from .files import link_tree, write_atomic
from .tasks import read_facts

_FACTS = "stage.json"  # beside the parts, written last


@dataclass(frozen=True)
class Index:
    """The sketches of a corpus for one stage."""

    folders: list[Path]
    entries: int


def folder_of(index: Path, label: str) -> Path:
    """Where the sketches for a stage are."""
    return index / label.replace(" ", "-")


def write_index(index: Path, label: str, stage: Mapping[str, Any], parts: Sequence[Path]) -> None:
    """Put the sketches in `parts` in place for the stage of these parameters."""
    folder = folder_of(index, label)
    for number, part in enumerate(parts):
        link_tree(part, folder / f"{number:05d}")
    entries = sum(read_facts(part)["entries"] for part in parts)
    facts = {"stage": stage, "parts": len(parts), "entries": entries}
    write_atomic(folder / _FACTS, (json.dumps(facts, indent=1, sort_keys=True) + "\n").encode())


def open_index(index: Path, label: str, stage: Mapping[str, Any]) -> Index:
    """The sketches for a stage. Raises InputError where there are none, or of other parameters."""
    folder = folder_of(index, label)
    try:
        facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
        then, parts, entries = facts["stage"], int(facts["parts"]), int(facts["entries"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{folder}: no index of {label} ({type(error).__name__}): prepare the earlier corpus "
            f"with keep_index=true and a stage {label}"
        ) from error
    if then != json.loads(json.dumps(stage)):
        other = [key for key in stage if then.get(key) != stage[key]]
        raise InputError(
            f"{folder}: made with another {', '.join(other) or 'kind'} of {label}: what is "
            "compared must be made alike; give the parameters of the earlier recipe"
        )
    return Index([folder / f"{number:05d}" for number in range(parts)], entries)
