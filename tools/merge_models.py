"""Merge models of one architecture: one Hugging Face folder of several.

    python tools/merge_models.py models='[A, B]' weights='[0.7, 0.3]' out=C
    python tools/merge_models.py method=slerp models='[A, B]' t=0.3 out=C
    python tools/merge_models.py method=task_arithmetic base=O models='[A, B]' scale=0.5 out=C
    python tools/merge_models.py method=ties base=O models='[A, B]' density=0.2 out=C
    python tools/merge_models.py method=dare base=O models='[A, B]' density=0.1 after=ties out=C

Tensors go through one at a time, in float64. For a checkpoint of training, convert it first with
tools/convert_checkpoint.py to-hf.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.command import read
from trivium.data_pipeline.errors import InputError, fail_clean

if TYPE_CHECKING:
    from trivium.engine.merging.methods import Method


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What to merge, and how."""

    method: Literal["linear", "slerp", "task_arithmetic", "ties", "dare"] = "linear"
    models: tuple[str, ...] = ()
    base: str | None = None  # the model that the others were trained from
    out: str = ""
    weights: tuple[float, ...] = ()  # one for each model; default: 1 each
    t: float = 0.5  # slerp: share of the way from the first to the second
    scale: float = 1.0  # of what is added to the base
    density: float = 0.2  # share of a task vector that ties and dare keep
    after: Literal["linear", "ties"] = "linear"  # what dare goes on with
    ties_density: float = 1.0  # of ties after dare
    seed: int = 0  # of what dare drops
    max_file_gb: float = 5.0  # of one safetensors file


def main() -> int:
    """Merge; gives the exit status."""
    asked = read(Asked, __doc__)
    method = _method(asked)
    from rich.progress import Progress

    from trivium.engine.merging.folders import merge

    with Progress(transient=True) as bar:
        task = bar.add_task("merge")
        elements = merge(
            [Path(path) for path in asked.models],
            Path(asked.base) if asked.base is not None else None,
            Path(asked.out),
            method,
            int(asked.max_file_gb * 1e9),
            lambda done, total: bar.update(task, completed=done, total=total),
        )
    print(f"{asked.out}: {elements:,} elements of {len(asked.models)} models")
    return 0


def _method(asked: Asked) -> Method:
    """The method that is asked for; InputError for what does not fit it."""
    kind, count = asked.method, len(asked.models)
    needs_base = kind not in ("linear", "slerp")
    weights = asked.weights or (1.0,) * count
    for holds, line in (
        (asked.out != "", "out: is missing; see --help for the form of the command"),
        (count > 0, "models: is empty; give folders"),
        (len(weights) == count, f"weights: {len(weights)} for {count} models; give one for each"),
        (all(0 < w < math.inf for w in weights), "weights: must be above 0 and finite"),
        (needs_base == (asked.base is not None),
         f"base: method={kind} {'needs' if needs_base else 'takes no'} base"),
        (kind != "slerp" or count == 2, f"models: slerp is between 2, not {count}"),
        (kind != "slerp" or not asked.weights, "weights: slerp takes none; give t"),
        (0 <= asked.t <= 1, f"t={asked.t:g}: must be from 0 to 1"),
        (0 < asked.density <= 1, f"density={asked.density:g}: must be above 0 and at most 1"),
        (0 < asked.ties_density <= 1, f"ties_density={asked.ties_density:g}: must be in (0, 1]"),
        (math.isfinite(asked.scale), f"scale={asked.scale}: must be finite"),
        (asked.max_file_gb > 0, f"max_file_gb={asked.max_file_gb:g}: must be above 0"),
    ):  # fmt: skip
        if not holds:
            raise InputError(line)
    from trivium.engine.merging import methods

    arithmetic = methods.TaskArithmetic(weights, asked.scale)
    if kind == "linear":
        return methods.Linear(weights)
    if kind == "slerp":
        return methods.Slerp(asked.t)
    if kind == "task_arithmetic":
        return arithmetic
    if kind == "ties":
        return methods.Ties(weights, asked.density, asked.scale)
    ties = methods.Ties(weights, asked.ties_density, asked.scale)
    return methods.Dare(asked.density, asked.seed, ties if asked.after == "ties" else arithmetic)


if __name__ == "__main__":
    sys.exit(fail_clean(main))
