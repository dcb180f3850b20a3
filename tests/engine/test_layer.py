"""A layer that adds and normalises in one pass equals megatron-core's, which takes two."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.distributed.pool import distributed
from tests.parity.layouts import place
from tests.parity.models import MODELS, SEQUENCE, run_of


def built(**fields):
    """The only layer of a small model."""
    from trivium.engine.layout import ParallelLayout
    from trivium.engine.mesh import create_mesh
    from trivium.engine.model.gpt import build

    run = place(run_of(replace(MODELS["dense"], num_layers=1, **fields)), "")[0]
    chunk = build(run, create_mesh(ParallelLayout.of(run.parallel, 1), run.seed))[0]
    return getattr(chunk, "module", chunk).decoder.layers[0].train()


def differentiated(layer):
    """Output and gradients, and with how many tensors the norm before the MLP was called."""
    calls = []
    norm = layer.pre_mlp_layernorm
    hook = norm.register_forward_pre_hook(lambda _, tensors: calls.append(len(tensors)))
    generator = torch.Generator().manual_seed(0)
    shape = (SEQUENCE, 2, layer.config.hidden_size)
    x = torch.randn(shape, generator=generator).requires_grad_()
    output, _ = layer(x, attention_mask=None)
    output.backward(torch.randn(shape, generator=generator))
    hook.remove()
    assert layer._done is None
    gradients = {name: p.grad for name, p in layer.named_parameters()}
    layer.zero_grad()  # to None
    return {"output": output.detach(), "input": x.grad, **gradients}, calls


@pytest.mark.parametrize("placement", ["pre", "sandwich"])
@distributed(1)
def test_one_pass_equals_two(placement):
    from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add

    layer = built(norm_placement=placement)
    ours, calls = differentiated(layer)
    assert calls == [2]  # with the residual
    if placement == "pre":
        layer.self_attn_bda = get_bias_dropout_add
    layer._fuses = False
    theirs, calls = differentiated(layer)
    assert calls == [1]
    assert torch.equal(ours["output"], theirs["output"])
    for name, exact in theirs.items():
        torch.testing.assert_close(ours[name], exact, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("placement", ["pre", "post", "sandwich"])
@distributed(1)
def test_norms_are_where_they_are_placed(placement):
    from trivium.engine.model.norm import Norm

    layer = built(norm_placement=placement)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    x = torch.randn(SEQUENCE, 2, layer.config.hidden_size, generator=generator)
    norms = [name for name, module in layer.named_children() if isinstance(module, Norm)]
    before, behind = ["input_layernorm", "pre_mlp_layernorm"], ["post_attention_layernorm"]
    behind = [*behind, "post_mlp_layernorm"]
    wanted = {"pre": before, "post": behind, "sandwich": before + behind}[placement]
    assert sorted(norms) == sorted(wanted)

    def or_nothing(norm, value):
        return norm(value) if isinstance(norm, Norm) else value

    inner = or_nothing(layer.input_layernorm, x)
    inner, _ = layer.self_attention(inner, attention_mask=None)
    total = x + or_nothing(layer.post_attention_layernorm, inner)
    inner, _ = layer.mlp(or_nothing(layer.pre_mlp_layernorm, total))
    expected = total + or_nothing(layer.post_mlp_layernorm, inner)
    torch.testing.assert_close(layer(x, attention_mask=None)[0], expected)


@pytest.mark.parametrize(
    "fields",
    [{"normalization": "layernorm"}, {"hidden_dropout": 0.1}, {"linear_bias": True}],
    ids=str,
)
@distributed(1)
def test_two_passes_where_something_comes_between(fields):
    _, calls = differentiated(built(**fields))
    assert calls == [1]
