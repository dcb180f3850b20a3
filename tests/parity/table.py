"""Layout parity over 20 steps: every tiny model, under every layout, against one rank.

`python -m tests.parity.table` measures all of it (about an hour on 2 cores) and writes
docs/parity.md; `--models dense,moe` measures some and prints. The fast suite measures a few layouts
that hold every pair of a model and an axis, and of two axes (`covering_layouts`).
"""

from __future__ import annotations

import argparse
import datetime
import functools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.distributed.pool import RankError, run_distributed
from tests.parity.covering import Row, cover
from tests.parity.harness import Trained, difference, merge, same_on_all_ranks, train
from tests.parity.layouts import layout, legal_names, place
from tests.parity.models import MODELS, STEPS, run_of
from trivium.engine.schema import RunConfig

DOCUMENT = Path(__file__).parents[2] / "docs" / "parity.md"
COMMAND = "python -m tests.parity.table"
TOLERANCE = 1e-5
MOE_NORM_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Result:
    """The largest relative differences of one model and layout from one rank, over all steps.

    loss: of the loss and every other reported one; norm: of the gradient norm; weights: of the
    parameters after the last step, the largest of any tensor in the 2-norm.
    """

    model: str
    layout: str
    world_size: int
    loss: float
    norm: float
    weights: float
    seconds: float
    error: str = ""

    @property
    def agrees(self) -> bool:
        """Within tolerance?"""
        moe = MODELS[self.model].moe is not None
        bound = MOE_NORM_TOLERANCE if moe else TOLERANCE
        return not self.error and self.loss <= TOLERANCE and self.norm <= bound


def config_of(model: str, name: str) -> tuple[RunConfig, int]:
    """The run of a model under a layout; 8 layers where the pipeline has 8 parts."""
    described = MODELS[model]
    parallel, _ = layout(name)
    if parallel.pp * parallel.vpp > described.num_layers:
        changes: dict[str, Any] = {"num_layers": 8}
        if described.moe is not None and not isinstance(described.moe.layers, int):
            pattern = (*described.moe.layers, *described.moe.layers[-1:] * 4)
            changes["moe"] = replace(described.moe, layers=pattern)
        described = replace(described, **changes)
    return place(run_of(described), name)


def measure(model: str, name: str) -> Result:
    """Train `model` under the layout `name`, and on one rank, and compare."""
    config, world_size = config_of(model, name)
    began = time.monotonic()
    try:
        ranks = run_distributed(train, world_size, config, timeout=600)
    except RankError as error:
        nothing = float("nan")
        return Result(model, name, world_size, nothing, nothing, nothing, 0.0, str(error))
    seconds = time.monotonic() - began
    expected = _alone(model, config.model.num_layers, config.train.micro_batch)
    history = same_on_all_ranks([rank.history for rank in ranks])
    apart: dict[str, float] = {}
    for step, reference in zip(history, expected.history, strict=True):
        assert step.keys() == reference.keys()
        for metric, value in reference.items():
            apart[metric] = max(apart.get(metric, 0.0), abs(step[metric] - value) / abs(value))
    norm = apart.pop("grad_norm")
    weights = difference(
        merge([rank.parameters for rank in ranks]), merge([expected.parameters])
    )
    loss = max(apart.values())
    return Result(model, name, world_size, loss, norm, max(weights.values()), seconds)


@functools.cache
def _alone(model: str, num_layers: int, micro_batch: int) -> Trained:
    """One rank, with micro-batches of the same size, for the balancing loss is a mean over each."""
    config, _ = config_of(model, "pp4 vpp2" if num_layers == 8 else "")
    alone, _ = place(config, "")
    alone = replace(alone, train=replace(alone.train, micro_batch=micro_batch))
    [result] = run_distributed(train, 1, alone, timeout=600)
    return result  # type: ignore[no-any-return]


def every_layout(model: str) -> Iterator[str]:
    """All layouts of up to 8 ranks, of which one rank with ZeRO-1 is the first."""
    deep, _ = config_of(model, "pp4 vpp2")
    for name, config, _ in legal_names(deep):
        if name and (config.parallel.vpp, config.parallel.pp) != (1, 8):
            yield name


def covering_layouts(largest_world: int) -> list[tuple[str, str]]:
    """(model, layout) that hold every pair of a model and an axis, and of two axes."""
    rows: list[Row] = []
    for model in MODELS:
        for name in every_layout(model):
            if layout(name)[1] <= largest_world:
                words = {word.rstrip("0123456789"): word for word in name.split()}
                axes = ("tp", "sp", "pp", "vpp", "ep", "etp", "dp", "zero")
                axes_of_row = {axis: words.get(axis, "") for axis in axes}
                rows.append({"model": model, "layout": name} | axes_of_row)
    factors = [
        (one, other)
        for index, one in enumerate(("model", *axes))
        for other in axes[index:]
    ]
    chosen = cover(rows, factors, lambda row: 1 + layout(str(row["layout"]))[1])
    return sorted((str(row["model"]), str(row["layout"])) for row in chosen)


def table_of(results: Sequence[Result]) -> str:
    """Markdown; one row a layout, sorted as measured."""
    lines = [
        "| model | layout | ranks | loss | gradient norm | weights after "
        f"{STEPS} steps | seconds |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for r in results:
        mark = "" if r.agrees else " **differs**"
        lines.append(
            f"| {r.model} | {r.layout or '-'} | {r.world_size} | {r.loss:.0e}{mark} | "
            f"{r.norm:.0e} | {r.weights:.0e} | {r.seconds:.1f} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Measure, print as it goes, and write the document when everything was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=",".join(MODELS))
    chosen = parser.parse_args().models.split(",")
    results = []
    for model in chosen:
        for name in every_layout(model):
            results.append(measure(model, name))
            print(table_of(results[-1:]).splitlines()[-1], flush=True)
    if set(chosen) == set(MODELS):
        DOCUMENT.write_text(document(results), encoding="utf-8")
        print(f"written to {DOCUMENT}")
    return int(not all(result.agrees for result in results))


def document(results: Sequence[Result]) -> str:
    """docs/parity.md."""
    return table_of(results)


if __name__ == "__main__":
    raise SystemExit(main())
