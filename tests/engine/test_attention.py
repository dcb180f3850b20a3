"""Core attention against softmax written out."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from tests.distributed.pool import distributed


def naive(q, k, v, window=None, cap=None):
    """[S, N, D], [T, G, D], [T, G, Dv] -> [S, N * Dv], in the dtype given."""
    S, N, D = q.shape
    T, G, _ = k.shape
    k, v = (x.repeat_interleave(N // G, dim=1) for x in (k, v))
    scores = torch.einsum("snd,tnd->nst", q, k) / D**0.5
    if cap is not None:
        scores = cap * torch.tanh(scores / cap)
    query = torch.arange(T - S, T).unsqueeze(1)
    key = torch.arange(T).unsqueeze(0)
    seen = key <= query
    if window is not None:
        seen &= key > query - window
    scores = scores.masked_fill(~seen, -torch.inf)
    return torch.einsum("nst,tnd->snd", scores.softmax(-1), v).flatten(1)


def core_attention(window=None, layer=1, **fields):
    from trivium.engine.model.attention import CoreAttention
    from trivium.engine.model.variations import Variations

    size = None if window is None else (window - 1, 0)
    config = SimpleNamespace(
        attention_dropout=0.0,
        window_size=size,
        softmax_scale=None,
        variations=Variations(**fields),
    )
    return CoreAttention(config, layer, None, "self")


def tensors(S, T, N, G, D, Dv):
    generator = torch.Generator().manual_seed(0)
    shapes = [(S, 2, N, D), (T, 2, G, D), (T, 2, G, Dv)]
    return [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]


CASES = {
    "causal": (33, 33, 4, 4, 16, 16, None),
    "grouped": (33, 33, 4, 2, 16, 16, None),
    "window": (40, 40, 4, 4, 16, 16, 7),
    "grouped window": (40, 40, 4, 1, 16, 16, 16),
    "latent": (33, 33, 4, 4, 24, 16, None),
    "several blocks": (150, 150, 4, 2, 16, 16, None),
    "one cached query": (1, 20, 4, 2, 16, 16, None),
    "cached prefix": (5, 20, 4, 2, 16, 16, None),
    "cached window": (5, 20, 4, 4, 16, 16, 6),
}


@pytest.mark.parametrize("case", CASES)
@distributed(1)
def test_values_and_gradients(case):
    S, T, N, G, D, Dv, window = CASES[case]
    inputs = tensors(S, T, N, G, D, Dv)
    ours = [x.clone().requires_grad_() for x in inputs]
    theirs = [x.clone().requires_grad_() for x in inputs]
    out = core_attention(window)(*ours)
    columns = [naive(*(x[:, b] for x in theirs), window) for b in range(2)]
    expected = torch.stack(columns, dim=1)
    torch.testing.assert_close(out, expected)
    (out * torch.arange(out.numel()).view_as(out)).sum().backward()
    (expected * torch.arange(out.numel()).view_as(out)).sum().backward()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


CAPPED = {
    "causal": (33, 33, 4, 4, 16, 16, None),
    "grouped window": (40, 40, 4, 1, 16, 16, 16),
    "latent": (33, 33, 4, 4, 24, 16, None),
    "several blocks": (300, 300, 4, 2, 16, 16, None),
    "several blocks, window": (300, 300, 4, 2, 16, 16, 20),
    "cached window": (5, 20, 4, 4, 16, 16, 6),
}


@pytest.mark.parametrize("case", CAPPED)
@distributed(1)
def test_capped_scores(case):
    S, T, N, G, D, Dv, window = CAPPED[case]
    inputs = tensors(S, T, N, G, D, Dv)
    ours = [x.clone().requires_grad_() for x in inputs]
    theirs = [x.clone().requires_grad_() for x in inputs]
    out = core_attention(window, attention_softcap=1.5)(*ours)
    columns = [naive(*(x[:, b] for x in theirs), window, cap=1.5) for b in range(2)]
    expected = torch.stack(columns, dim=1)
    torch.testing.assert_close(out, expected)
    (out * torch.arange(out.numel()).view_as(out)).sum().backward()
    (expected * torch.arange(out.numel()).view_as(out)).sum().backward()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


@distributed(1)
def test_a_layer_without_a_window_sees_everything():
    q, k, v = tensors(40, 40, 4, 4, 16, 16)
    pattern = (True, False)
    near, far = (core_attention(7, layer, window_pattern=pattern)(q, k, v) for layer in (1, 2))
    torch.testing.assert_close(near[:, 0], naive(q[:, 0], k[:, 0], v[:, 0], 7))
    torch.testing.assert_close(far[:, 0], naive(q[:, 0], k[:, 0], v[:, 0]))


@pytest.mark.parametrize("cap", [None, 1.5])
@distributed(1)
def test_documents_do_not_see_each_other(cap):
    from trivium.engine.model.attention import Documents

    q, k, v = (x[:, 0] for x in tensors(30, 30, 4, 2, 16, 16))
    documents = Documents.of((0, 7, 8, 30), "cpu")
    out = core_attention(attention_softcap=cap)(q, k, v, packed_seq_params=documents)
    parts = [slice(0, 7), slice(7, 8), slice(8, 30)]
    torch.testing.assert_close(out, torch.cat([naive(q[p], k[p], v[p], cap=cap) for p in parts]))


@distributed(1, timeout=120.0)
def test_no_square_matrix_of_scores():
    import resource

    S = 12288  # one head's S x S in fp32 would be 576 MiB
    q, k, v = (torch.randn(S, 1, 1, 32, requires_grad=True) for _ in range(3))
    for window in (None, 256):
        core_attention(window)(q, k, v).sum().backward()
    S = 10240  # 400 MiB
    q, k, v = (torch.randn(S, 1, 1, 16, requires_grad=True) for _ in range(3))
    core_attention(attention_softcap=5.0)(q, k, v).sum().backward()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 < 900e6


@distributed(1)
def test_bf16_is_as_close_as_torch_comes():
    """Forward and gradients, as relative L2 errors against fp64."""
    from torch.nn.functional import scaled_dot_product_attention

    from trivium.engine.model.blocked_attention import causal_attention

    shapes = [(2, 8, 200, 64), (2, 2, 200, 64), (2, 2, 200, 64)]
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(s, generator=generator).bfloat16() for s in shapes]
    weight = torch.randn(shapes[0], generator=generator)

    def torchs(q, k, v):
        return scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

    def results(function, dtype):
        leaves = [x.to(dtype).requires_grad_() for x in inputs]
        out = function(*leaves)
        (out * weight.to(dtype)).sum().backward()
        return [out.detach(), *(x.grad for x in leaves)]

    expected = results(torchs, torch.float64)
    ours, theirs = (results(f, torch.bfloat16) for f in (causal_attention, torchs))
    for truth, mine, other in zip(expected, ours, theirs, strict=True):
        assert mine.dtype == torch.bfloat16
        error, bar = ((x.double() - truth).norm() / truth.norm() for x in (mine, other))
        assert error < max(1.1 * bar, 3e-3)
