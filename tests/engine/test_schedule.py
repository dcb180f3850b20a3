"""Learning rates at the points that matter."""

from __future__ import annotations

import pytest

from trivium.engine.schedule import learning_rate
from trivium.engine.schema import OptimizerConfig, ScheduleConfig

PEAK, LOW, STEPS = 1.0, 0.1, 100


def rate(step, **schedule):
    settings = ScheduleConfig(min_lr=LOW, **schedule)
    return learning_rate(step, STEPS, settings, OptimizerConfig(lr=PEAK))


@pytest.mark.parametrize("kind", ["cosine", "linear", "wsd", "constant"])
def test_warm_up_is_linear_from_zero(kind):
    assert rate(1, kind=kind, warmup_steps=10) == pytest.approx(0.1 * PEAK)
    assert rate(10, kind=kind, warmup_steps=10) == PEAK


@pytest.mark.parametrize("kind", ["cosine", "linear", "wsd"])
def test_the_minimum_is_reached_and_kept(kind):
    assert rate(STEPS, kind=kind, warmup_steps=10) == pytest.approx(LOW)
    assert rate(60, kind=kind, decay_steps=50) == pytest.approx(LOW)
    rates = [rate(step, kind=kind, warmup_steps=10) for step in range(10, STEPS + 1)]
    assert rates == sorted(rates, reverse=True)


def test_half_way():
    assert rate(55, kind="cosine", warmup_steps=10) == pytest.approx((PEAK + LOW) / 2)
    assert rate(55, kind="linear", warmup_steps=10) == pytest.approx((PEAK + LOW) / 2)
    assert rate(90, kind="constant") == PEAK


@pytest.mark.parametrize(
    ("decay", "share"), [("linear", 0.5), ("cosine", 0.5), ("sqrt", 1 - 0.5**0.5)]
)
def test_wsd_holds_then_decays(decay, share):
    assert rate(80, kind="wsd", stable_fraction=0.8) == PEAK
    found = rate(90, kind="wsd", stable_fraction=0.8, wsd_decay=decay)
    assert found == pytest.approx(LOW + (PEAK - LOW) * share)


def test_warm_up_longer_than_the_run():
    assert rate(50, kind="cosine", warmup_steps=200) == pytest.approx(0.25 * PEAK)
