"""Initial weights: drawn from the element, not from the order of drawing."""

from __future__ import annotations

import math

import pytest
import torch

from tests.distributed.pool import distributed


@distributed(1)
def test_normal_and_independent():
    from trivium.engine.model.init import _key, standard_normal

    index = torch.arange(400_000)
    a, b = (standard_normal(_key(7, name), index) for name in ("a", "b"))
    for x in (a, b):
        assert abs(float(x.mean())) < 5 / math.sqrt(len(x))
        assert float(x.std()) == pytest.approx(1.0, abs=0.006)
        assert float((x.abs() > 1.96).double().mean()) == pytest.approx(0.05, abs=0.002)
        assert abs(float((x[1:] * x[:-1]).mean())) < 5 / math.sqrt(len(x))
    assert abs(float((a * b).mean())) < 5 / math.sqrt(len(a))
    assert torch.equal(standard_normal(_key(7, "a"), index[1000:1010]), a[1000:1010])
    assert not torch.equal(standard_normal(_key(8, "a"), index), a)
