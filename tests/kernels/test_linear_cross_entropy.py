"""The output layer and its loss in chunks: equal to all logits at once, whatever the chunks."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from tests.distributed.pool import distributed
from trivium.kernels import linear_cross_entropy as module
from trivium.kernels.linear_cross_entropy import linear_cross_entropy, linear_token_scores

ROWS, HIDDEN, COLUMNS = 300, 24, 50
Z_WEIGHT = 1e-2


def draw(dtype=torch.float64, columns=COLUMNS, vocab_size=None, rows=ROWS, device="cpu"):
    """Hidden states, weight, labels of which some are ignored, weights, gradients of the scores."""
    generator = torch.Generator(device).manual_seed(1)
    like = {"generator": generator, "device": device}
    hidden = torch.randn(rows, HIDDEN, **like).to(dtype)
    weight = (torch.randn(columns, HIDDEN, **like) * 0.5).to(dtype)
    labels = torch.randint(vocab_size or columns, (rows,), **like)
    labels[::7] = -100
    weights = (torch.rand(rows, **like) > 0.3).float()
    by = [torch.randn(rows, dtype=torch.float64, **like) for _ in range(3)]
    return hidden, weight, labels, weights, by


def exact(hidden, weight, labels, vocab_size):
    """In float64: nll, logsumexp, entropy."""
    logits = (hidden @ weight.t())[:, :vocab_size]
    log_p = logits.log_softmax(-1)
    nll = -log_p.gather(1, labels.clamp(min=0).unsqueeze(1)).squeeze(1) * (labels >= 0)
    return nll, logits.logsumexp(-1), -(log_p.exp() * log_p).sum(-1)


def twins(*tensors):
    """Leaves of the same values in float64."""
    return [t.detach().clone().double().requires_grad_() for t in tensors]


def apart(found, expected):
    found, expected = found.double(), expected.double()
    return float((found - expected).norm() / expected.norm().clamp(min=1e-30))


def in_chunks(monkeypatch_or_none, rows, columns, dtype):
    """Let `rows` rows of logits fit the scratch memory."""
    size = rows * columns * torch.empty(0, dtype=dtype).element_size()
    if monkeypatch_or_none is None:
        module.SCRATCH_BYTES = size
    else:
        monkeypatch_or_none.setattr(module, "SCRATCH_BYTES", size)


def check_weighted(hidden, weight, labels, weights, vocab_size, bound, group=None, factor=1.0):
    exact_hidden, exact_weight = twins(hidden, weight)
    nll, logsumexp, _ = exact(exact_hidden, exact_weight, labels, vocab_size)
    expected = ((nll + Z_WEIGHT * logsumexp.square()) * weights).sum()
    (factor * expected).backward()
    hidden, weight = (t.detach().clone().requires_grad_() for t in (hidden, weight))
    total, our_nll, our_logsumexp = linear_cross_entropy(
        hidden, weight, labels, weights, group, vocab_size, Z_WEIGHT
    )
    (factor * total).backward()
    assert apart(total.detach(), expected.detach()) <= bound
    assert apart(our_nll, nll.detach()) <= bound
    assert apart(our_logsumexp, logsumexp.detach()) <= bound
    assert our_nll.grad_fn is None
    assert apart(hidden.grad, exact_hidden.grad) <= bound
    assert apart(weight.grad, exact_weight.grad) <= bound
    assert weight.grad.dtype == weight.dtype


def check_scores(hidden, weight, labels, by, vocab_size, bound):
    exact_hidden, exact_weight = twins(hidden, weight)
    expected = exact(exact_hidden, exact_weight, labels, vocab_size)
    torch.autograd.backward(expected, by)
    hidden, weight = (t.detach().clone().requires_grad_() for t in (hidden, weight))
    found = linear_token_scores(hidden, weight, labels, None, vocab_size, entropy=True)
    torch.autograd.backward(found, [one.to(found[0].dtype) for one in by])
    for one, other in zip(found, expected, strict=True):
        assert apart(one.detach(), other.detach()) <= bound
    assert apart(hidden.grad, exact_hidden.grad) <= bound
    assert apart(weight.grad, exact_weight.grad) <= bound


@pytest.mark.parametrize("rows", [1, 7, 130, ROWS])
@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 1e-2)]
)
def test_against_all_logits_in_float64(monkeypatch, rows, dtype, bound):
    hidden, weight, labels, weights, by = draw(dtype, vocab_size=47)
    in_chunks(monkeypatch, rows, COLUMNS, dtype)
    check_weighted(hidden, weight, labels, weights, 47, bound)
    check_scores(hidden, weight, labels, by, 47, bound)


def test_the_gradient_of_the_sum_scales_what_was_kept():
    hidden, weight, labels, weights, _ = draw()
    check_weighted(hidden, weight, labels, weights, COLUMNS, 1e-12, factor=3.0)


def test_fp16_recomputes_with_the_loss_scale():
    hidden, weight, labels, weights, by = draw(torch.float16, rows=40)
    check_weighted(hidden, weight, labels, weights, COLUMNS, 1e-2, factor=1024.0)
    check_scores(hidden, weight, labels, by, COLUMNS, 1e-2)


def test_gradcheck(monkeypatch):
    hidden, weight, labels, _, _ = draw(rows=5, columns=6)
    hidden, weight = hidden[:, :4].clone().requires_grad_(), weight[:, :4].clone().requires_grad_()
    in_chunks(monkeypatch, 2, 6, torch.float64)
    torch.autograd.gradcheck(
        lambda h, w: linear_token_scores(h, w, labels % 6, None, 5, entropy=True), (hidden, weight)
    )
    labels = labels.clamp(max=4)
    torch.autograd.gradcheck(
        lambda h, w: linear_token_scores(h, w, labels, None, 5), (hidden, weight)
    )


def test_chunks_fit_the_scratch_memory():
    for rows, columns, size in ((8192, 128256, 2), (8192, 151936, 4), (5, 7, 4), (0, 9, 2)):
        chunks = module._chunks(rows, columns, size)
        assert [c.stop for c in chunks[:-1]] == [c.start for c in chunks[1:]]
        assert sum(c.stop - c.start for c in chunks) == rows
        most = max((c.stop - c.start for c in chunks), default=0)
        assert most * columns * size <= module.SCRATCH_BYTES
    assert len(module._chunks(8192, 128256, 2)) == 4


@pytest.mark.parametrize("frozen", ["hidden", "weight", "both"])
def test_what_needs_no_gradient_gets_none(frozen):
    hidden, weight, labels, weights, _ = draw(rows=20)
    leaves = {"hidden": hidden, "weight": weight}
    for name, leaf in leaves.items():
        leaf.requires_grad_(frozen not in (name, "both"))
    for total in (
        linear_cross_entropy(hidden, weight, labels, weights)[0],
        (linear_token_scores(hidden, weight, labels)[0] * weights).sum(),
    ):
        assert total.requires_grad == (frozen != "both")
        if total.requires_grad:
            total.backward()
    for name, leaf in leaves.items():
        assert (leaf.grad is None) == (frozen in (name, "both"))
    with torch.no_grad():
        again = linear_cross_entropy(hidden, weight, labels, weights)[0]
    torch.testing.assert_close(again, total.detach())


def test_no_rows():
    hidden, weight, labels, weights, _ = draw(rows=0)
    hidden.requires_grad_(), weight.requires_grad_()
    total, nll, _ = linear_cross_entropy(hidden, weight, labels, weights)
    total.backward()
    assert nll.shape == (0,)
    assert not weight.grad.any()
    assert hidden.grad.shape == (0, HIDDEN)


def check_shards(dtype, bound, sharded_rows, rows_a_chunk):
    world, rank = dist.get_world_size(), dist.get_rank()
    vocab_size = COLUMNS * world - 3
    hidden, weight, labels, weights, by = draw(dtype, COLUMNS * world, vocab_size)
    in_chunks(None, rows_a_chunk, COLUMNS, dtype)
    exact_hidden, exact_weight = twins(hidden, weight)
    columns = slice(rank * COLUMNS, (rank + 1) * COLUMNS)
    rows = slice(rank * ROWS // world, (rank + 1) * ROWS // world) if sharded_rows else slice(None)

    def leaves():
        parts = (hidden[rows], weight[columns])
        return (t.detach().clone().requires_grad_() for t in parts)

    nll, logsumexp, entropy = exact(exact_hidden, exact_weight, labels, vocab_size)
    expected = ((nll + Z_WEIGHT * logsumexp.square()) * weights).sum()
    expected.backward(retain_graph=True)
    ours, mine = leaves()
    total, *_ = linear_cross_entropy(
        ours, mine, labels, weights, dist.group.WORLD, vocab_size, Z_WEIGHT, sharded_rows
    )
    total.backward()
    assert apart(total.detach(), expected.detach()) <= bound
    assert apart(ours.grad, exact_hidden.grad[rows]) <= bound
    assert apart(mine.grad, exact_weight.grad[columns]) <= bound

    exact_hidden.grad = exact_weight.grad = None
    torch.autograd.backward((nll, logsumexp, entropy), by)
    ours, mine = leaves()
    found = linear_token_scores(
        ours, mine, labels, dist.group.WORLD, vocab_size, True, sharded_rows
    )
    torch.autograd.backward(found, [one.to(found[0].dtype) for one in by])
    for one, other in zip(found, (nll, logsumexp, entropy), strict=True):
        assert apart(one.detach(), other.detach()) <= bound
    assert apart(ours.grad, exact_hidden.grad[rows]) <= bound
    assert apart(mine.grad, exact_weight.grad[columns]) <= bound


@pytest.mark.parametrize("sharded_rows", [False, True])
@pytest.mark.parametrize("rows_a_chunk", [70, ROWS])
@distributed(2)
def test_two_shards(sharded_rows, rows_a_chunk):
    check_shards(torch.float64, 1e-12, sharded_rows, rows_a_chunk)


@distributed(2)
def test_two_shards_in_bf16():
    check_shards(torch.bfloat16, 1e-2, True, 70)


# --- On a GPU -------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("chunks", [1, 3, 12])
def test_on_a_gpu_against_float64(monkeypatch, dtype, chunks):
    from trivium.kernels.library import load

    assert load() is None
    rows, vocab_size = 1500, 50257
    generator = torch.Generator("cuda").manual_seed(1)
    like = {"generator": generator, "device": "cuda"}
    hidden = torch.randn(rows, 256, **like).to(dtype)
    weight = (torch.randn(50304, 256, **like) / 8).to(dtype)
    labels = torch.randint(vocab_size, (rows,), **like)
    labels[::9] = -100
    weights = (torch.rand(rows, **like) > 0.3).float()
    by = [torch.randn(rows, dtype=torch.float64, **like) for _ in range(3)]
    in_chunks(monkeypatch, -(-rows // chunks), 50304, dtype)
    torch.full((rows, 50304), torch.nan, dtype=dtype, device="cuda")
    # the logits themselves are rounded to bf16: by |x| 2^-9 at most
    bound = 5e-6 if dtype == torch.float32 else 1.5e-2
    check_weighted(hidden, weight, labels, weights, vocab_size, bound)
    check_scores(hidden, weight, labels, by, vocab_size, bound)


@pytest.mark.gpu
def test_memory_on_a_gpu():
    from trivium.kernels.library import load

    assert load() is None
    hidden = torch.randn(8192, 512, dtype=torch.bfloat16, device="cuda", requires_grad=True)
    weight = torch.randn(128256, 512, dtype=torch.bfloat16, device="cuda", requires_grad=True)
    labels = torch.randint(128256, (8192,), device="cuda")
    weights = torch.ones(8192, device="cuda")
    results = 2 * (hidden.numel() + weight.numel())
    hidden[:256].detach() @ weight[:256].detach().t()  # takes cuBLAS its workspace
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    linear_cross_entropy(hidden, weight, labels, weights)[0].backward()
    assert torch.cuda.max_memory_allocated() - before - results <= 0.6e9
