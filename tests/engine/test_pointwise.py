"""RMSNorm, rotary embedding, gated activations and weight gradients against their formulas.

The modules are written for few passes over memory; the references here for reading.
"""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from tests.distributed.pool import distributed


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def assert_same_function(ours, reference, *inputs):
    """Equal values and gradients in float64, for an output gradient that is not contiguous."""
    mine = [x.clone().requires_grad_() for x in inputs]
    theirs = [x.clone().requires_grad_() for x in inputs]
    out, expected = ours(*mine), reference(*theirs)
    torch.testing.assert_close(out, expected)
    grad = random(*reversed(out.shape), seed=1).permute(*reversed(range(out.dim())))
    out.backward(grad)
    expected.backward(grad)
    for x, y in zip(mine, theirs, strict=True):
        torch.testing.assert_close(x.grad, y.grad)


@pytest.mark.parametrize("zero_centered", [False, True])
@pytest.mark.parametrize("kind", ["RMSNorm", "LayerNorm"])
@distributed(1)
def test_norm(kind, zero_centered):
    from trivium.engine.model.norm import Norm

    config = SimpleNamespace(
        normalization=kind,
        layernorm_zero_centered_gamma=zero_centered,
        sequence_parallel=False,
        params_dtype=torch.float64,
    )
    norm = Norm(config, 24, eps=1e-5)
    parameters = [name for name, _ in norm.named_parameters()]

    def ours(x, *values):
        return torch.func.functional_call(norm, dict(zip(parameters, values, strict=True)), x)

    def reference(x, weight, bias=None):
        gain = weight + 1 if zero_centered else weight
        if kind == "LayerNorm":
            return (x - x.mean(-1, True)) / (x.var(-1, False, True) + 1e-5).sqrt() * gain + bias
        return x / (x.square().mean(-1, True) + 1e-5).sqrt() * gain

    inputs = [random(5, 3, 24), *(random(24, seed=i + 2) for i in range(len(parameters)))]
    assert_same_function(ours, reference, *inputs)


@pytest.mark.parametrize("rotating", [16, 8])
@distributed(1)
def test_rotary(rotating):
    from trivium.engine.model.rotary import rotate

    angles = random(7, 1, 1, rotating // 2, seed=3).repeat(1, 1, 1, 2)

    def reference(x):
        pair = torch.complex(x[..., : rotating // 2], x[..., rotating // 2 : rotating])
        turned = pair * torch.polar(torch.ones_like(angles), angles)[..., : rotating // 2]
        return torch.cat([turned.real, turned.imag, x[..., rotating:]], dim=-1)

    assert_same_function(lambda x: rotate(x, angles), reference, random(7, 2, 3, 16))


@distributed(1)
def test_rotary_starts_anew_in_each_document():
    from trivium.engine.model.rotary import rotate, rotate_documents

    x, angles = random(9, 3, 16), random(5, 1, 1, 8, seed=3).repeat(1, 1, 1, 2)
    turned = rotate_documents(x, torch.tensor([0, 4, 9], dtype=torch.int32), angles)
    parts = [rotate(part.unsqueeze(1), angles[: len(part)]).squeeze(1) for part in x.split([4, 5])]
    torch.testing.assert_close(turned, torch.cat(parts))


@pytest.mark.parametrize("name", ["silu", "gelu", "tanh gelu"])
@distributed(1)
def test_gated_activation(name):
    from trivium.engine.model.activation import GatedActivation
    from trivium.engine.model.variations import Variations

    function, special = getattr(F, name.split()[-1]), Variations(tanh_gelu=name == "tanh gelu")
    act = partial(F.gelu, approximate="tanh") if special.tanh_gelu else function
    ours = GatedActivation(SimpleNamespace(activation_func=function, variations=special))
    assert_same_function(ours, lambda x: act(x[..., :12]) * x[..., 12:], random(5, 3, 24))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@distributed(1)
def test_weight_gradients_are_added_to_main_grad(dtype):
    from megatron.core.tensor_parallel import layers

    x, grad = random(6, 4, dtype=dtype), random(6, 3, seed=1, dtype=dtype)
    main_grad = random(3, 4, seed=2, dtype=torch.float32)
    expected = main_grad + (grad.t() @ x)
    layers.fused_weight_gradient_mlp_cuda.wgrad_gemm_accum_fp32(x, grad, main_grad)
    torch.testing.assert_close(main_grad, expected)
