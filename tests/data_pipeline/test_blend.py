"""Blends: closed form, complete, and close to the weights at every prefix."""

from __future__ import annotations

import numpy as np
import pytest

from trivium.data_pipeline.blend import Blend
from trivium.data_pipeline.errors import InputError

WEIGHTS = [
    [1.0],
    [1, 1],
    [0.7, 0.3],
    [5, 1, 1, 1],
    [0.5, 0.25, 0.125, 0.0625, 0.0625],
    [1e-3, 1],
    list(range(1, 21)),
]


@pytest.mark.parametrize("weights", WEIGHTS, ids=lambda w: f"{len(w)}-{w[0]}")
def test_every_prefix_respects_the_weights(weights):
    blend = Blend(weights)
    source, within = blend.locate(np.arange(20_000))
    for number, weight in enumerate(blend.weights):
        taken = source == number
        assert (within[taken] == np.arange(taken.sum())).all()
        due = np.arange(1, 20_001) * weight
        off = np.abs(np.cumsum(taken) - due).max()
        assert off <= blend.max_deviation + 1e-6
    assert blend.max_deviation < 2


def test_any_index_without_the_ones_before():
    blend = Blend([0.6, 0.3, 0.1])
    source, within = blend.locate(np.arange(1000))
    chosen = np.random.default_rng(0).permutation(1000)[:50]
    at, number = blend.locate(chosen)
    assert (at == source[chosen]).all()
    assert (number == within[chosen]).all()
    far_at, far_number = blend.locate(np.array([10**12]))
    assert far_number[0] == pytest.approx(10**12 * blend.weights[far_at[0]], abs=3)


@pytest.mark.parametrize("weights", [[], [0.0, 1.0], [-1.0], [float("nan")], [float("inf")]])
def test_weights_that_mean_nothing(weights):
    with pytest.raises(InputError, match="blend"):
        Blend(weights)


@pytest.mark.parametrize("weights", WEIGHTS, ids=lambda w: f"{len(w)}-{w[0]}")
def test_few_are_located_as_many_are(weights):
    blend = Blend(weights)
    for first in (0, 10**9, 10**15):
        many = np.arange(first, first + 64)
        source, within = blend.locate(many)
        for start in range(0, 64, 8):
            at, number = blend.locate(many[start : start + 8])
            assert at.tolist() == source[start : start + 8].tolist()
            assert number.tolist() == within[start : start + 8].tolist()
    assert [len(part) for part in blend.locate(many[:0])] == [0, 0]
