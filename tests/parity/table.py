"""Layout parity over 20 steps: every tiny model, under every layout, against one rank.

`python -m tests.parity.table` measures all of it (about two hours on 2 cores) and writes
docs/parity.md; `--models dense,moe` measures some and prints, `--context` layouts with cp only. The
fast suite measures `FEW`.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import functools
import itertools
import json
import math
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path

from tests.distributed.pool import run_distributed
from tests.parity.harness import Trained, difference, merge, same_on_all_ranks, train
from tests.parity.layouts import all_names, context_names, layout, place
from tests.parity.models import DATA, GLOBAL_BATCH, MODELS, SEQUENCE, STEPS, of_depth, run_of
from trivium.data_pipeline.errors import InputError
from trivium.engine.schema import ParallelConfig, RunConfig

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "parity.md"
RECORD = ROOT / "build" / "parity.jsonl"  # one line a result, as they are measured
COMMAND = "python -m tests.parity.table"
TOLERANCE = 1e-5
MOE_NORM_TOLERANCE = 1e-4

# A few that leave no axis out; single steps under every pair of axes are in test_gradients.py.
FEW = (
    ("dense", "pp2 vpp2 dp2 overlap zero"),
    ("mtp", "tp2 pp2"),
    ("mla", "tp2 dp2 overlap zero"),
    ("moe", "ep2 dp2 overlap"),
    ("moe", "tp2 sp ep2 zero"),
    ("moe", "tp2 sp etp2 pp2 zero"),
    ("deepseek", "tp2 sp pp2 ep2 zero"),
    ("deepseek", "pp2 vpp2 dp2 ep2 zero"),
    ("packed", "tp2 sp cp2 a2a zero"),
    ("mtp", "pp2 cp2 zero"),
    ("mla", "cp2 a2a dp2 overlap zero"),
    ("moe", "cp2 ep2 dp2 overlap"),
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
    return place(run_of(of_depth(MODELS[model], layers), **DATA.get(model, {})), name)


def measure(model: str, name: str) -> Result:
    """Train `model` under the layout `name`, and on one rank, and compare."""
    config, world_size = config_of(model, name)
    began = time.monotonic()
    try:
        loss, norm, weights = _largest_differences(config, world_size)
        error = ""
    except AssertionError as failure:  # of a rank, or copies and reports that are not the same
        loss, norm, weights, error = math.nan, math.nan, math.nan, str(failure)
    return Result(model, name, world_size, loss, norm, weights, time.monotonic() - began, error)


def _largest_differences(config: RunConfig, world_size: int) -> tuple[float, float, float]:
    ranks = run_distributed(train, world_size, config, timeout=600)
    expected = _alone(config)
    history = same_on_all_ranks([rank.history for rank in ranks])
    apart: dict[str, float] = {}
    for step, reference in zip(history, expected.history, strict=True):
        assert step.keys() == reference.keys(), step.keys() ^ reference.keys()
        for metric, value in reference.items():
            apart[metric] = max(apart.get(metric, 0.0), abs(step[metric] - value) / abs(value))
    norm = apart.pop("grad_norm")
    parameters = merge([rank.parameters for rank in ranks])
    weights = difference(parameters, merge([expected.parameters]))
    return max(apart.values()), norm, max(weights.values())


def _alone(config: RunConfig) -> Trained:
    """The same run on one rank: micro-batches of the same size, over which MoE balances."""
    return _train_alone(replace(config, parallel=ParallelConfig(sp=False, zero=0)))


@functools.cache
def _train_alone(config: RunConfig) -> Trained:
    [result] = run_distributed(train, 1, config, timeout=600)
    return result  # type: ignore[no-any-return]


def every_layout(model: str) -> Iterator[str]:
    """All legal layouts of up to 8 ranks, but for one rank without ZeRO-1, the reference.

    Of `deepseek`, which has the parts of the other models at once, those of 8 ranks with ZeRO-1; of
    `packed`, those with cp, which cuts its documents.
    """
    experts = MODELS[model].moe is not None
    for name in itertools.chain(all_names(experts), context_names(experts)):
        with contextlib.suppress(InputError):
            _, world_size = config_of(model, name)
            if not name or (model == "packed" and not has_context(name)):
                continue
            if model != "deepseek" or (world_size == 8 and "zero" in name):
                yield name


def has_context(name: str) -> bool:
    """Does a layout split rows over cp?"""
    return layout(name)[0].cp > 1


HEADER = ("model", "layout", "ranks", "loss", "gradient norm", f"weights after {STEPS} steps")


def row_of(result: Result) -> tuple[str, ...]:
    """The cells of a result, under `HEADER`."""
    if result.error:
        return (result.model, result.layout, str(result.world_size), "failed", "", "")
    mark = "" if result.agrees else " (!)"
    numbers = [f"{number:.1e}" for number in (result.loss, result.norm, result.weights)]
    return (result.model, result.layout, str(result.world_size), numbers[0] + mark, *numbers[1:])


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; the first two columns are text, the others numbers."""
    lines = [header, ["---"] * 2 + ["---:"] * (len(header) - 2), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def worst_of(results: Sequence[Result]) -> str:
    """A table with a line for each model."""
    worst = []
    for model in dict.fromkeys(result.model for result in results):
        mine = [result for result in results if result.model == model]
        largest = [f"{max(getattr(r, name) for r in mine):.1e}" for name in ("loss", "norm")]
        agreeing = sum(result.agrees for result in mine)
        worst.append((model, f"{agreeing} of {len(mine)} agree", *largest))
    return markdown(("model", "layouts", "worst loss", "worst gradient norm"), worst)


def measured(results: Sequence[Result], command: str) -> str:
    """When, how and on what."""
    return f"""\
Measured {datetime.date.today()} by `{command}` ({sum(result.seconds for result in results) / 60:.0f} minutes of runs): torch {metadata.version("torch")},
megatron-core {metadata.version("megatron-core")}, gloo, {os.cpu_count()} cores."""


def context_section(results: Sequence[Result]) -> str:
    """The part of docs/parity.md on layouts with cp."""
    return f"""\
## Context parallelism

cp 2 and 4, as a ring and (`a2a`) by exchange of heads, with tp 1/2/4 (with sp), pp 1/2, vpp 2, ep 1/2
and dp 1/2, with the distributed optimizer, on up to 8 ranks (`deepseek`: on 8). `packed` is under a
document mask: its rows hold documents of any length, cut wherever a chunk of cp ends, and it has an
MTP head, whose labels cross chunks. Bounds and comparison are those above.

{worst_of(results)}

Per-parameter gradients under cp 2, with sliding windows, every position embedding, recomputation and
each other feature, are compared in `tests/parity/test_gradients.py`; attention by itself, ring and
exchange against whole rows in fp64, fp32 and bf16, in `tests/engine/test_context_parallel.py`.

{measured(results, COMMAND + " --context")}

{markdown(HEADER, map(row_of, results))}
"""


def document(results: Sequence[Result]) -> str:
    """docs/parity.md: what is compared, the worst of each model, and every layout."""
    whole = [result for result in results if not has_context(result.layout)]
    split = [result for result in results if has_context(result.layout)]
    return f"""\
# Layout parity

The same seed is the same run under every layout. Each tiny model below is trained for {STEPS} steps in
fp32, once on one rank and once under every layout of tp 1/2/4 (with and without sp), pp 1/2/4,
vpp 2, ep 1/2/4, etp 1/2/4, dp 1/2/4 and the distributed optimizer on or off that fits 8 processes
and is legal for the model; `deepseek`, which has the parts of the other models at once, under those of
8 processes with the distributed optimizer. A number is the largest relative difference from the 1-rank run at any
step: of the loss (and every other reported loss: MTP heads, balancing, z-loss), of the gradient
norm; and for the weights after the last step |a - b| / |b| of the tensor that differs most.

Bounds: {TOLERANCE:.0e} for losses and gradient norms, {MOE_NORM_TOLERANCE:.0e} for the gradient norms of models with experts.

{worst_of(whole)}

Models: `tests/parity/models.py`; width 64, as many layers as the pipeline has parts and at least
two, {GLOBAL_BATCH} sequences of {SEQUENCE} bytes of text a step, AdamW at a peak rate of 1e-3 with
5 steps of warm-up. The 1-rank run has micro-batches of the same size, because the balancing loss of
`moe` is a mean over each. What one step does to every single gradient under every pair of features
is in `tests/parity/test_gradients.py`.

{measured(whole, COMMAND)}

{markdown(HEADER, map(row_of, whole))}

{context_section(split)}"""


def main() -> int:
    """Measure, print as it goes, and write the document when everything was measured."""
    parser = argparse.ArgumentParser(description="layout parity of the tiny models")
    parser.add_argument("--models", default=",".join(MODELS), help="some of the models")
    parser.add_argument("--context", action="store_true", help="layouts with cp only")
    parser.add_argument("--resume", action="store_true", help=f"go on from {RECORD}")
    arguments = parser.parse_args()
    chosen = arguments.models.split(",")
    known: dict[tuple[str, str], Result] = {}
    if arguments.resume and RECORD.exists():
        lines = RECORD.read_text(encoding="utf-8").splitlines()
        known = {(r.model, r.layout): r for r in (Result(**json.loads(line)) for line in lines)}
    RECORD.parent.mkdir(exist_ok=True)
    results = []
    with RECORD.open("a" if arguments.resume else "w", encoding="utf-8") as record:
        for model in chosen:
            for name in every_layout(model):
                if arguments.context and not has_context(name):
                    continue
                result = known.get((model, name))
                if result is None:
                    result = measure(model, name)
                    print(json.dumps(asdict(result)), file=record, flush=True)
                    print(*row_of(result), f"{result.seconds:.1f} s", result.error, flush=True)
                results.append(result)
    if arguments.context:
        print(context_section(results))
    elif set(chosen) == set(MODELS):
        DOCUMENT.parent.mkdir(exist_ok=True)
        DOCUMENT.write_text(document(results), encoding="utf-8")
        print(f"written to {DOCUMENT}")
    return int(not all(result.agrees for result in results))


if __name__ == "__main__":
    raise SystemExit(main())
