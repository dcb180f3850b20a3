"""A layer with our routing and permutation in it equals megatron-core's own, in every layout."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.distributed.pool import distributed, run_distributed
from tests.parity.layouts import place
from tests.parity.models import MODELS, SEQUENCE, run_of


def differentiated(run, fused: bool) -> dict[str, Any]:
    """Output and gradients of the last layer's mixture, as this rank has them."""
    import torch.distributed as dist

    from trivium.engine.layout import ParallelLayout
    from trivium.engine.mesh import create_mesh, destroy_mesh
    from trivium.engine.model import moe_hooks
    from trivium.engine.model.gpt import build

    switches = {"moe_router_fusion": fused, "moe_permute_fusion": fused}
    moe_hooks.fusions = lambda: switches  # this process ends with the test
    destroy_mesh()
    mesh = create_mesh(ParallelLayout.of(run.parallel, dist.get_world_size()), run.seed)
    chunk = build(run, mesh)[0].train()
    layer = chunk.decoder.layers[-1].mlp
    assert layer.config.moe_permute_fusion == fused
    generator = torch.Generator().manual_seed(dist.get_rank())
    length = SEQUENCE // (run.parallel.tp if run.parallel.sp else 1)
    x = torch.randn(length, 2, run.model.hidden_size, generator=generator).requires_grad_()
    if layer.router.expert_bias is not None:
        layer.router.expert_bias.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
    output, _ = layer(x)
    output.backward(torch.randn(output.shape, generator=generator))
    gradients = {name: p.grad for name, p in layer.named_parameters()}
    assert all(grad is not None for grad in gradients.values())
    return {"output": output, "input": x.grad, **gradients}


def compare(run) -> None:
    ours, theirs = differentiated(run, True), differentiated(run, False)
    for name, exact in theirs.items():
        torch.testing.assert_close(ours[name], exact, rtol=1e-5, atol=1e-6, msg=f"{name} differs")


def run_named(model, name, **fields):
    shape = MODELS[model]
    return place(run_of(replace(shape, moe=replace(shape.moe, **fields))), name)[0]


@pytest.mark.parametrize("dispatcher", ["alltoall", "allgather"])
@pytest.mark.parametrize("model", ["moe", "deepseek"])
def test_a_layer_on_one_rank(model, dispatcher):
    run_distributed(compare, 1, run_named(model, "", dispatcher=dispatcher))


@pytest.mark.parametrize("name", ["dp2 ep2", "tp2 sp etp2"])
def test_a_layer_shared_by_two_ranks(name):
    run_distributed(compare, 2, run_named("moe", name))


@pytest.mark.parametrize("balance", ["aux", "sequence"])
def test_balancing_losses(balance):
    run_distributed(compare, 1, run_named("moe", "", balance=balance))


@distributed(1)
def test_a_cpu_keeps_to_megatron_core():
    from trivium.engine.model import moe_hooks

    assert not any(moe_hooks.fusions().values())
