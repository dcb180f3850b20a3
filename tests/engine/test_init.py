"""Initial weights: drawn from the element, not from the order of drawing."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.distributed.pool import distributed, run_distributed
from tests.parity.harness import initialize, merge
from tests.parity.layouts import place
from tests.parity.models import MODELS, run_of


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


@pytest.mark.parametrize(
    ("model", "layout"),
    [
        ("dense", "tp4"),
        ("dense", "tp2 sp pp2"),
        ("deepseek", "pp2 vpp2"),
        ("deepseek", "tp2 sp ep2 etp2 dp2 zero"),
        ("deepseek", "dp4 ep4"),
    ],
)
def test_the_same_seed_is_the_same_model(model, layout):
    config, world_size = place(run_of(MODELS[model]), layout)
    [alone] = run_distributed(initialize, 1, place(run_of(MODELS[model]), "")[0])
    expected = merge([alone])
    ours = merge(run_distributed(initialize, world_size, config))
    assert ours.keys() == expected.keys()
    for name, tensor in expected.items():
        assert np.array_equal(ours[name], tensor), name


def test_another_seed_is_another_model():
    config, _ = place(run_of(MODELS["mla"]), "")
    first, second = (
        merge(run_distributed(initialize, 1, replace(config, seed=seed))) for seed in (1, 2)
    )
    for name, tensor in first.items():
        fixed = name.endswith("bias") or "norm" in name
        assert np.array_equal(second[name], tensor) == fixed, name


def test_spread_and_layers():
    config, _ = place(run_of(MODELS["dense"]), "")
    [shards] = run_distributed(initialize, 1, config)
    std, layers = config.model.init_std, config.model.num_layers
    for name, tensor in merge([shards]).items():
        if name.endswith("norm.weight"):
            assert (tensor == 1).all()
        elif name.endswith("bias"):
            assert not tensor.any()
        else:
            residual = name.endswith(("linear_proj.weight", "linear_fc2.weight"))
            expected = std / math.sqrt(2 * layers) if residual else std
            assert tensor.std() == pytest.approx(expected, rel=0.05), name
    qkv = merge([shards])["decoder.layers.self_attention.linear_qkv.weight"]
    for one in range(layers):
        for other in range(one):
            correlation = np.corrcoef(qkv[one].ravel(), qkv[other].ravel())[0, 1]
            assert abs(correlation) < 5 / math.sqrt(qkv[one].size)
