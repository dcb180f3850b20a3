"""20 steps under a layout are the 20 steps of one rank: losses, gradient norms, weights."""

from __future__ import annotations

import pytest

from tests.parity.models import MODELS
from tests.parity.table import FEW, Result, every_layout, measure

WEIGHTS_TOLERANCE = 1e-4  # Adam turns rounding into steps where a gradient is nearly zero


LONG = {  # of the few; every pair of what they hold is in another of them, or in test_gradients
    ("deepseek", "pp2 vpp2 dp2 ep2 zero"),
    ("packed", "tp2 sp cp2 a2a zero"),
    ("moe", "tp2 sp etp2 pp2 zero"),
}


@pytest.mark.parametrize(
    ("model", "layout"),
    [pytest.param(*few, marks=[pytest.mark.slow] if few in LONG else []) for few in FEW],
)
def test_a_few_layouts_train_alike(model: str, layout: str, parity_results: list[Result]) -> None:
    result = measure(model, layout)
    parity_results.append(result)
    assert result.agrees, result
    assert result.weights <= WEIGHTS_TOLERANCE, result


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_every_layout_trains_alike(
    model: str, parity_results: list[Result], subtests: pytest.Subtests
) -> None:
    for layout in every_layout(model):
        with subtests.test(layout):
            result = measure(model, layout)
            parity_results.append(result)
            assert result.agrees, result
