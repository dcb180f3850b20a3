"""The ring in one process: ranks are threads that hand each other tensors. Needs no megatron-core.

On a CPU the pieces are our blocks; on a GPU the fused kernels, so that what they return and take
(log-sum-exp, windows, documents) is tested on a single device.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from queue import Queue
from types import SimpleNamespace

import pytest
import torch

from trivium.engine.model import flash_attention
from trivium.engine.model.blocked_attention import BlockedPieces
from trivium.engine.model.flash_attention import FusedPieces
from trivium.engine.model.ring_attention import ring_backward, ring_forward
from trivium.engine.model.zigzag import held, ring_steps

SIZE = 4

# S of the row, B, N, G, D, Dv, boundaries, window
SMALL = {
    "rows": (64, 2, 4, 2, 16, 16, None, None),
    "latent": (64, 2, 4, 4, 24, 16, None, None),
    "window": (64, 2, 4, 2, 16, 16, None, 11),
    "documents": (64, 1, 4, 2, 16, 16, (0, 5, 6, 41, 49, 64), None),
    "documents, window": (64, 1, 4, 2, 16, 16, (0, 3, 30, 64), 9),
}
LARGE = {
    "rows": (2048, 2, 8, 2, 128, 128, None, None),
    "odd head dim": (1024, 1, 4, 4, 40, 40, None, None),
    "latent": (1024, 1, 4, 4, 192, 128, None, None),
    "window": (1024, 2, 4, 2, 64, 64, None, 300),
    "short window": (1024, 1, 4, 4, 64, 64, None, 50),
    "documents": (2048, 1, 8, 2, 128, 128, (0, 5, 6, 700, 701, 1111, 2048), None),
    "documents, window": (1024, 1, 4, 2, 64, 64, (0, 3, 300, 1024), 130),
}


class ThreadRing:
    """A `Ring` whose ranks are threads of this process."""

    def __init__(self, rank: int, boxes: list[Queue]) -> None:
        self.rank, self.size = rank, len(boxes)
        self._boxes = boxes

    def pass_on(self, tensor):
        assert tensor.is_contiguous()
        self._boxes[(self.rank + 1) % self.size].put(tensor.clone())
        return SimpleNamespace(wait=lambda: self._boxes[self.rank].get(timeout=60))


def truth(q, k, v, grad, boundaries, window):
    """Output and gradients in fp64, all scores written out; [S, B, heads, D]."""
    q, k, v = (x.double().requires_grad_() for x in (q, k, v))
    S, N, G = q.shape[0], q.shape[2], k.shape[2]
    position = torch.arange(S, device=q.device)
    seen = position.unsqueeze(1) >= position
    if window is not None:
        seen &= position.unsqueeze(1) - position < window
    if boundaries is not None:
        starts = torch.tensor(boundaries[1:], device=q.device)
        document = torch.searchsorted(starts, position, right=True)
        seen &= document.unsqueeze(1) == document
    keys, values = (x.repeat_interleave(N // G, dim=2) for x in (k, v))
    scores = torch.einsum("sbnd,tbnd->bnst", q, keys) / math.sqrt(q.shape[-1])
    probabilities = scores.masked_fill(~seen, -torch.inf).softmax(-1)
    out = torch.einsum("bnst,tbnd->sbnd", probabilities, values)
    return [out.detach(), *torch.autograd.grad(out, (q, k, v), grad.double())]


def tensors(case, dtype, device):
    S, B, N, G, D, Dv, boundaries, window = case
    generator = torch.Generator().manual_seed(0)
    shapes = [(S, B, N, D), (S, B, G, D), (S, B, G, Dv), (S, B, N, Dv)]
    made = [torch.randn(s, generator=generator).to(device, dtype) for s in shapes]
    return made, boundaries, window


def ring_of_threads(case, dtype, device, pieces_of):
    """Output and gradients of q, k and v, whole rows put together again."""
    inputs, boundaries, window = tensors(case, dtype, device)
    S, D, G = inputs[0].shape[0], inputs[0].shape[-1], inputs[1].shape[2]
    boxes: list[Queue] = [Queue() for _ in range(SIZE)]

    def rank(index):
        here = torch.cat([torch.arange(S)[part.start : part.stop] for part in held(index, SIZE, S)])
        backend = pieces_of(D**-0.5, G)
        ring = ThreadRing(index, boxes)
        steps = ring_steps(index, SIZE, S, boundaries, window)
        q, k, v, grad = (x[here.to(x.device)] for x in inputs)
        q, grad = backend.queries(q), backend.queries(grad)
        k, v = backend.keys(k), backend.keys(v)
        out, lse = ring_forward(q, k, v, ring, steps, backend)
        out = out.to(dtype)
        dq, dk, dv = ring_backward(grad, q, k, v, out, lse, ring, steps, backend)
        back = [backend.from_queries(x, len(here)) for x in (out, dq)]
        return here, back + [backend.from_keys(x) for x in (dk, dv)]

    with ThreadPoolExecutor(SIZE) as threads:
        results = list(threads.map(rank, range(SIZE)))
    whole = [torch.empty_like(x, dtype=torch.float64) for x in (inputs[3], *inputs[:3])]
    for here, parts in results:
        for total, part in zip(whole, parts, strict=True):
            total[here.to(total.device)] = part.double()
    return whole, truth(*inputs, boundaries, window)


def error(found, expected):
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("name", SMALL)
def test_blocks(name):
    found, expected = ring_of_threads(SMALL[name], torch.float32, "cpu", BlockedPieces)
    for mine, other in zip(found, expected, strict=True):
        assert error(mine, other) < 1e-6


@pytest.mark.gpu
@pytest.mark.parametrize("kernel", ["best", "flash"])
@pytest.mark.parametrize("name", LARGE)
def test_fused_kernels(name, kernel, monkeypatch):
    if kernel == "flash":
        monkeypatch.setattr(flash_attention, "_cudnn_takes", lambda *args: False)
    made = tensors(LARGE[name], torch.bfloat16, "cuda")[0]
    assert flash_attention.usable(*made[:3])
    poison = [torch.full_like(x, torch.nan, dtype=torch.float32) for x in made for _ in range(8)]
    del poison
    found, expected = ring_of_threads(
        LARGE[name], torch.bfloat16, "cuda", lambda scale, groups: FusedPieces(scale)
    )
    errors = [error(mine, other) for mine, other in zip(found, expected, strict=True)]
    assert max(errors) < 8e-3, errors


@pytest.mark.gpu
def test_blocks_on_a_gpu():
    """fp32 and fp64 have no fused kernel with a log-sum-exp."""
    for name in ("rows", "documents, window"):
        found, expected = ring_of_threads(SMALL[name], torch.float32, "cuda", BlockedPieces)
        for mine, other in zip(found, expected, strict=True):
            assert error(mine, other) < 1e-5


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["latent", "window", "documents", "documents, window"])
def test_windows_and_documents_of_whole_rows(name):
    inputs, boundaries, window = tensors(LARGE[name], torch.bfloat16, "cuda")
    expected = truth(*inputs, boundaries, window)
    leaves = [x.clone().requires_grad_() for x in inputs[:3]]
    if boundaries is None:
        rows = (x.transpose(0, 1) for x in leaves)
        out = flash_attention.attend(*rows, None, window).transpose(0, 1)
    else:
        cumulative = flash_attention.on_device(boundaries, inputs[0].device)
        longest = max(b - a for a, b in pairwise(boundaries))
        packed = (x.squeeze(1) for x in leaves)
        out = flash_attention.attend(*packed, None, window, cumulative, longest).unsqueeze(1)
    found = [out, *torch.autograd.grad(out, leaves, inputs[3])]
    errors = [error(mine, other) for mine, other in zip(found, expected, strict=True)]
    assert max(errors) < 8e-3, errors
