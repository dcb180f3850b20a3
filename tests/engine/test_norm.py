"""Norms against torch's own in float64: values, gradients, and the mark of sequence parallelism."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from tests.distributed.pool import distributed

HIDDEN, EPS = 48, 1e-5


def norm(kind, zero_centered=False, sequence_parallel=False, dtype=torch.float32):
    from trivium.engine.model.norm import Norm

    config = SimpleNamespace(
        normalization=kind,
        layernorm_zero_centered_gamma=zero_centered,
        sequence_parallel=sequence_parallel,
        params_dtype=dtype,
    )
    return Norm(config, HIDDEN, eps=EPS)


def reference(kind, x, gain, bias):
    if kind == "RMSNorm":
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS) * gain
    return F.layer_norm(x, (HIDDEN,), gain, bias, EPS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("zero_centered", [False, True], ids=["", "zero-centred"])
@pytest.mark.parametrize("kind", ["RMSNorm", "LayerNorm"])
@distributed(1)
def test_values_and_gradients(kind, zero_centered, dtype):
    module = norm(kind, zero_centered, dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(generator=generator)
    x = (torch.randn(7, 3, HIDDEN, generator=generator) * 2 + 0.5).to(dtype).requires_grad_()
    upstream = torch.randn(7, 3, HIDDEN, generator=generator).to(dtype)
    out = module(x)
    out.backward(upstream)

    leaves = [x, module.weight] + ([] if module.bias is None else [module.bias])
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    gain = exact[1] + 1 if zero_centered else exact[1]
    expected = reference(kind, exact[0], gain, exact[2] if len(exact) > 2 else None)
    expected.backward(upstream.double())

    assert out.dtype == dtype
    bound = 1e-5 if dtype == torch.float32 else 2e-2
    pairs = [(out, expected), *((a.grad, b.grad) for a, b in zip(leaves, exact, strict=True))]
    for ours, theirs in pairs:
        assert (ours.double() - theirs).norm() <= bound * theirs.norm()


@pytest.mark.parametrize("kind", ["RMSNorm", "LayerNorm"])
@distributed(1)
def test_begins_as_the_identity_gain_and_marks_what_is_summed_over_tp(kind):
    for zero_centered in (False, True):
        module = norm(kind, zero_centered, sequence_parallel=True)
        assert torch.equal(module.weight, torch.full((HIDDEN,), 0.0 if zero_centered else 1.0))
        assert all(parameter.sequence_parallel for parameter in module.parameters())
    assert not norm(kind).weight.sequence_parallel


def heads_norm(heads, zero_centered):
    from trivium.engine.model.norm import HeadsNorm

    config = SimpleNamespace(
        layernorm_zero_centered_gamma=zero_centered, params_dtype=torch.float32
    )
    return HeadsNorm(config, 16, heads, eps=EPS)


@pytest.mark.parametrize("zero_centered", [False, True], ids=["", "zero-centred"])
@distributed(2)
def test_a_norm_over_the_heads_of_all_ranks(zero_centered):
    from trivium.engine.layout import ParallelLayout
    from trivium.engine.mesh import create_mesh

    rank = create_mesh(ParallelLayout(world_size=2, tp=2), 1).tp_rank
    generator = torch.Generator().manual_seed(0)
    gain, x, upstream = (
        torch.randn(*shape, 64, generator=generator) for shape in ((), (7, 3), (7, 3))
    )
    module = heads_norm(2, zero_centered)
    assert torch.equal(module.weight, torch.full((32,), 0.0 if zero_centered else 1.0))
    mine = slice(32 * rank, 32 * rank + 32)
    with torch.no_grad():
        module.weight.copy_(gain[mine])
    part = x[..., mine].clone().requires_grad_()
    out = module(part.view(7, 3, 2, 16)).flatten(2)
    out.backward(upstream[..., mine])

    exact = [leaf.double().requires_grad_() for leaf in (x, gain)]
    whole = exact[0] * torch.rsqrt(exact[0].square().mean(-1, keepdim=True) + EPS)
    expected = whole * (exact[1] + 1 if zero_centered else exact[1])
    expected.backward(upstream.double())
    pairs = [(out, expected), (part.grad, exact[0].grad), (module.weight.grad, exact[1].grad)]
    for ours, theirs in pairs:
        torch.testing.assert_close(ours.double(), theirs[..., mine], rtol=1e-5, atol=1e-5)


@distributed(1)
def test_a_row_of_zeros_is_left_alone():
    x = torch.zeros(2, HIDDEN, requires_grad=True)
    for kind in ("RMSNorm", "LayerNorm"):
        out = norm(kind)(x)
        out.sum().backward()
        assert not out.any()
        assert x.grad.isfinite().all()
