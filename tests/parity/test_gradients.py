"""Every feature under every axis: the gradient of each parameter is the 1-rank gradient.

Most faults of parallel training raise nothing and give a gradient that is wrong by a factor, in one
parameter, under one layout. So rows of features (`features.py`) hold every legal pair of them; each
row is differentiated once on one rank and once under its layout, from the same rough weights, and
compared parameter by parameter. Copies of a parameter on several ranks must agree, too.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.distributed.pool import run_distributed
from tests.parity.covering import Row
from tests.parity.features import covering_rows, layout_of_row, name_of_row, run_of_row
from tests.parity.harness import difference, differentiate, merge, same_on_all_ranks
from tests.parity.layouts import place
from trivium.engine.schema import ParallelConfig, RunConfig

TOLERANCE = 3e-5  # rounding reaches 6e-6 here; a factor or a term that is missing, 1e-2 and more


def compare(config: RunConfig, world_size: int) -> tuple[dict[str, float], dict[str, float]]:
    """Relative differences from one rank: of every metric, and of every parameter's gradient."""
    alone = replace(config, parallel=ParallelConfig(sp=False, zero=0))
    [expected] = run_distributed(differentiate, 1, alone)
    results = run_distributed(differentiate, world_size, config)
    metrics = same_on_all_ranks([result.metrics for result in results])
    assert metrics.keys() == expected.metrics.keys()
    apart = {
        name: abs(metrics[name] - value) / abs(value) for name, value in expected.metrics.items()
    }
    gradients = merge([result.gradients for result in results], tolerance=TOLERANCE)
    return apart, difference(gradients, merge([expected.gradients]))


def check(row: Row) -> None:
    """One row; the error names whatever is off, worst first."""
    config, world_size = place(run_of_row(row), layout_of_row(row))
    metrics, gradients = compare(config, world_size)
    apart = sorted((metrics | gradients).items(), key=lambda item: -item[1])
    wrong = {name: f"{value:.1e}" for name, value in apart if not value <= TOLERANCE}
    assert not wrong, f"relative differences from one rank: {wrong}"


@pytest.mark.parametrize("row", covering_rows(every_pair=False), ids=name_of_row)
def test_each_feature_under_each_axis(row: Row) -> None:
    check(row)


@pytest.mark.slow
def test_each_pair_of_features(subtests: pytest.Subtests) -> None:
    for row in covering_rows(every_pair=True):
        with subtests.test(name_of_row(row)):
            check(row)
