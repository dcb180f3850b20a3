"""Label scores over a sharded vocabulary against torch's own cross-entropy in float64."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from tests.distributed.pool import distributed

ROWS, COLUMNS = 37, 96  # columns of one rank


def check(dtype, vocab_size, tolerance):
    from trivium.engine.logprobs import label_scores

    world, rank = dist.get_world_size(), dist.get_rank()
    generator = torch.Generator().manual_seed(3)
    whole = (torch.randn(ROWS, COLUMNS * world, generator=generator) * 3).to(dtype)
    labels = torch.randint(vocab_size, (ROWS,), generator=generator)
    by_nll = torch.randn(ROWS, generator=generator)
    by_lse = torch.randn(ROWS, generator=generator)

    exact = whole.double().requires_grad_()
    nll = F.cross_entropy(exact[:, :vocab_size], labels, reduction="none")
    lse = exact[:, :vocab_size].logsumexp(-1)
    (nll * by_nll + lse * by_lse).sum().backward()

    mine = slice(rank * COLUMNS, (rank + 1) * COLUMNS)
    leaf = whole[:, mine].clone().requires_grad_()
    ours, our_lse = label_scores(leaf * 1.0, labels, dist.group.WORLD, vocab_size)
    (ours * by_nll + our_lse * by_lse).sum().backward()
    torch.testing.assert_close(ours.double(), nll, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(our_lse.double(), lse, rtol=tolerance, atol=tolerance)
    expected = exact.grad[:, mine]
    error = (leaf.grad.double() - expected).norm() / expected.norm().clamp(min=1e-30)
    assert error <= tolerance if expected.any() else not leaf.grad.any()


@pytest.mark.parametrize("padding", [0, 5, 96])
@distributed(2)
def test_two_shards(padding):
    check(torch.float32, 2 * COLUMNS - padding, 2e-6)


@pytest.mark.parametrize("padding", [0, 5])
@distributed(1)
def test_one_shard(padding):
    check(torch.float32, COLUMNS - padding, 2e-6)


@distributed(2)
def test_bf16_within_its_rounding():
    check(torch.bfloat16, 2 * COLUMNS - 3, 4e-3)
