"""Layout parity over 20 steps: every tiny model, under every layout, against one rank.

`python -m tests.parity.table` measures all of it (about an hour on 2 cores) and writes
docs/parity.md; `--models dense,moe` measures some and prints. The fast suite measures `FEW`.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import functools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tests.distributed.pool import RankError, run_distributed
from tests.parity.harness import Trained, difference, merge, same_on_all_ranks, train
from tests.parity.layouts import all_names, layout, place
from tests.parity.models import MODELS, STEPS, of_depth, run_of
from trivium.data_pipeline.errors import InputError
from trivium.engine.schema import ParallelConfig, RunConfig

DOCUMENT = Path(__file__).parents[2] / "docs" / "parity.md"
COMMAND = "python -m tests.parity.table"
TOLERANCE = 1e-5
MOE_NORM_TOLERANCE = 1e-4

# A few that leave no axis out; single steps under every pair of axes are in test_gradients.py.
FEW = (
    ("dense", "tp4"),
    ("dense", "pp2 vpp2 dp2 zero"),
    ("mtp", "tp2 pp2"),
    ("mtp", "pp4 zero"),
    ("mla", "tp2 sp"),
    ("mla", "tp2 dp2 zero"),
    ("moe", "ep2 dp2"),
    ("moe", "tp2 sp ep2 zero"),
    ("moe", "tp2 sp etp2 pp2 zero"),
    ("deepseek", "tp2 sp pp2 ep2 zero"),
    ("deepseek", "pp2 vpp2 dp2 ep2 zero"),
)


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
    """The run of a model under a layout, with one layer for each part of the pipeline, or two."""
    parallel, _ = layout(name)
    layers = max(2, parallel.pp * parallel.vpp)
    return place(run_of(of_depth(MODELS[model], layers)), name)


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
    expected = _alone(config)
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


def _alone(config: RunConfig) -> Trained:
    """The same run on one rank: micro-batches of the same size, over which MoE balances."""
    return _train_alone(replace(config, parallel=ParallelConfig(sp=False, zero=0)))


@functools.cache
def _train_alone(config: RunConfig) -> Trained:
    [result] = run_distributed(train, 1, config, timeout=600)
    return result  # type: ignore[no-any-return]


def every_layout(model: str) -> Iterator[str]:
    """All legal layouts of up to 8 ranks, but for one rank without ZeRO-1, the reference."""
    for name in all_names(experts=MODELS[model].moe is not None):
        with contextlib.suppress(InputError):
            config_of(model, name)
            if name:
                yield name


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
