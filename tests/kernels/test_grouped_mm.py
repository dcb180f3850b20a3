"""Grouped products against float64, one group at a time; the grouped kernel through torch's own."""

from __future__ import annotations

import itertools

import pytest
import torch

from trivium.kernels import grouped_mm
from trivium.kernels.grouped_mm import (
    Groups,
    add_weight_gradients,
    grouped_input_gradient,
    grouped_linear,
    stacked,
)

BOUND = {torch.float32: 1e-6, torch.bfloat16: 4e-3, torch.float16: 2e-3}
DTYPES = pytest.mark.parametrize("dtype", BOUND, ids=lambda dtype: str(dtype)[6:])
COUNTS = {
    "uneven": [5, 0, 9, 1, 0],
    "empty first": [0, 3, 4],
    "one": [7],
    "none": [0, 0],
    "first only": [6, 0],
}


def random(*shape, seed=0, dtype=torch.float64, device="cpu"):
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float32, device=device).to(dtype)


def products(x, counts, weights, grad):
    """Output, input gradient and weight gradients in float64."""
    x, grad = x.double(), grad.double()
    parts = zip(x.split(counts), grad.split(counts), [w.double() for w in weights], strict=True)
    out, grad_x, grad_w = zip(
        *((rows @ w.t(), g @ w, g.t() @ rows) for rows, g, w in parts), strict=True
    )
    return torch.cat(out), torch.cat(grad_x), torch.stack(grad_w)


def close(ours, exact, bound):
    apart = (ours.double() - exact).norm()
    return bool(apart <= bound * exact.norm()) if exact.numel() else ours.shape == exact.shape


@DTYPES
@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS.keys())
def test_against_float64(counts, dtype):
    rows, n, k = sum(counts), 7, 6
    x = random(rows, k, dtype=dtype).requires_grad_()
    weights = [random(n, k, seed=1 + i, dtype=dtype).requires_grad_() for i in range(len(counts))]
    grad = random(rows, n, seed=99, dtype=dtype)
    groups = Groups.of(torch.tensor(counts), x.device)
    out = grouped_linear(x, groups, weights)
    out.backward(grad)
    expected = products(x, counts, weights, grad)
    ours = (out, x.grad, torch.stack([w.grad for w in weights]))
    for result, exact in zip(ours, expected, strict=True):
        assert result.dtype == dtype
        assert close(result, exact, BOUND[dtype])
    assert torch.equal(x.grad, grouped_input_gradient(grad, groups, weights))


def test_offsets_and_counts_are_the_same():
    x, weights = random(15, 6), [random(7, 6, seed=i) for i in range(3)]
    counts, offsets = [5, 0, 10], torch.tensor([5, 5, 15], dtype=torch.int32)
    out = [grouped_linear(x, g, weights) for g in (Groups(None, counts), Groups(offsets, None))]
    assert torch.equal(*out)


def test_gradients_are_derivatives():
    counts = [3, 0, 2]
    x = random(5, 4).requires_grad_()
    weights = [random(3, 4, seed=i).requires_grad_() for i in (1, 2, 3)]

    def function(x, *weights):
        return grouped_linear(x, Groups(None, counts), weights)

    torch.autograd.gradcheck(function, (x, *weights))


@pytest.mark.parametrize("total", [torch.float32, torch.bfloat16], ids=["fp32", "same"])
def test_sums_of_weight_gradients(total):
    counts = [4, 0, 3]
    x, grad = random(7, 6, dtype=torch.bfloat16), random(7, 5, seed=1, dtype=torch.bfloat16)
    sums = [random(5, 6, seed=2 + i, dtype=total) for i in range(3)]
    expected = torch.stack([s.double() for s in sums])
    expected += products(x, counts, [torch.zeros(5, 6)] * 3, grad)[2]
    untouched = sums[1].clone()
    add_weight_gradients(grad, x, Groups(None, counts), sums)
    assert close(torch.stack(sums), expected, 8e-3)
    assert torch.equal(sums[1], untouched)


def test_operators_are_well_formed():
    x, grad = random(5, 4), random(5, 3, seed=9)
    weights = [random(3, 4, seed=i) for i in (1, 2)]
    leaves = [weight.clone().requires_grad_() for weight in weights]
    ends = torch.tensor([2, 5], dtype=torch.int32)
    library = torch.ops.trivium
    differentiable = (x.clone().requires_grad_(), leaves, None, [2, 3], True)
    torch.library.opcheck(library.grouped_mm.default, differentiable)
    for offsets, counts in ((ends, None), (ends, [2, 3])):
        for operator, arguments in (
            (library.grouped_mm, (grad, weights, offsets, counts, False)),
            (library.grouped_mm_weight, (grad, x, offsets, counts)),
            (library.grouped_mm_weight_add, (grad, x, weights, offsets, counts)),
        ):
            quick = ("test_schema", "test_faketensor")
            torch.library.opcheck(operator.default, arguments, test_utils=quick)


def test_counts_that_do_not_add_up():
    with pytest.raises(ValueError, match="have 4 rows, but x has 5"):
        grouped_linear(random(5, 4), Groups(None, [1, 3]), [random(3, 4)] * 2)
    with pytest.raises(ValueError, match="neither offsets nor counts"):
        grouped_linear(random(5, 4), Groups(None, None), [random(3, 4)] * 2)


def test_stacked_views_what_lies_equally_spaced():
    buffer = random(100)
    spaced = [buffer[start : start + 12].view(3, 4) for start in (4, 24, 44)]
    view = stacked(spaced)
    assert view is not None
    assert view.data_ptr() == spaced[0].data_ptr()
    assert torch.equal(view, torch.stack(spaced))
    assert stacked(spaced[:1]).shape == (1, 3, 4)
    assert stacked(spaced[::-1]) is None
    assert stacked([spaced[0], spaced[2], spaced[1]]) is None
    assert stacked([*spaced, buffer[70:82].view(3, 4)]) is None
    assert stacked([spaced[0], buffer[10:22].view(3, 4)]) is None  # they overlap
    assert stacked([spaced[0], spaced[1].clone()]) is None
    assert stacked([part.t() for part in spaced]) is None


@pytest.mark.parametrize("spaced", [True, False], ids=["spaced", "scattered"])
@pytest.mark.parametrize("counts", [None, [5, 0, 8]], ids=["offsets", "both"])
def test_the_way_through_the_grouped_kernel(monkeypatch, counts, spaced):
    """On a CPU torch's grouped kernel is a loop of its own: its layouts are the same."""
    rows, n, k = 13, 16, 8
    monkeypatch.setattr(grouped_mm, "_able", lambda *args: True)
    calls = []
    kernel = grouped_mm._grouped
    monkeypatch.setattr(grouped_mm, "_grouped", lambda *a, **b: calls.append(1) or kernel(*a, **b))
    buffer = random(3, n, k, dtype=torch.bfloat16)
    weights = list(buffer) if spaced else [part.clone() for part in buffer]
    x = random(rows, k, seed=1, dtype=torch.bfloat16)
    grad = random(rows, n, seed=2, dtype=torch.bfloat16)
    offsets = torch.tensor([5, 5, 13], dtype=torch.int32)
    totals = torch.zeros(3, n, k)
    sums = list(totals) if spaced else [part.clone() for part in totals]
    out = grouped_mm._mm_cuda(x, weights, offsets, counts, True)
    grad_x = grouped_mm._mm_cuda(grad, weights, offsets, counts, False)
    grad_w = grouped_mm._weight_cuda(grad, x, offsets, counts)
    grouped_mm._weight_add_cuda(grad, x, sums, offsets, counts)
    assert len(calls) == (4 if spaced or counts is None else 2)  # no copy where counts are known
    expected = products(x, [5, 0, 8], weights, grad)
    ours = (out, grad_x, grad_w, torch.stack(sums))
    for result, exact in zip(ours, (*expected, expected[2]), strict=True):
        assert close(result, exact, 4e-3)


# On a GPU


def poison(shapes, dtype):
    """Leave nan in the memory that results of these shapes are likely to get."""
    held = [torch.full(shape, torch.nan, dtype=dtype, device="cuda") for shape in shapes]
    del held


def run(x, groups, weights, grad, sums):
    """Every pass; `sums` begins at 1."""
    poison([(x.shape[0], weights[0].shape[0]), x.shape], x.dtype)
    leaf = x.clone().requires_grad_()
    leaves = [weight.detach().requires_grad_() for weight in weights]
    out = grouped_linear(leaf, groups, leaves)
    out.backward(grad)
    for total in sums:
        total.fill_(1.0)
    add_weight_gradients(grad, x, groups, sums)
    return out, leaf.grad, torch.stack([w.grad for w in leaves]), torch.stack(list(sums))


@pytest.mark.gpu
@DTYPES
@pytest.mark.parametrize("sizes", [(24, 40), (136, 264), (7, 13)], ids=str)
def test_gpu_against_float64(monkeypatch, sizes, dtype):
    """Every way, groups without rows included, weights spaced or not; the same bits three times."""
    n, k = sizes
    for counts in ([0, 130, 1, 0, 257, 0], [300], [0, 0, 65]):
        rows, number = sum(counts), len(counts)
        x = random(rows, k, dtype=dtype, device="cuda")
        grad = random(rows, n, seed=1, dtype=dtype, device="cuda")
        buffer = random(number, n * k + 64, seed=2, dtype=dtype, device="cuda")
        spaced = [row[: n * k].view(n, k) for row in buffer]
        scattered = [weight.clone() for weight in spaced]
        expected = products(x, counts, spaced, grad)
        given = torch.tensor(counts)
        host = Groups(None, counts)
        for groups, weights, floor in itertools.product(
            (host, Groups.of(given, x.device), Groups.of(given.cuda(), x.device)),
            (spaced, scattered),
            (0, 2**60),
        ):
            monkeypatch.setattr(grouped_mm, "LOOP_OUTPUTS", floor)
            monkeypatch.setattr(grouped_mm, "LOOP_GRADIENT_OUTPUTS", floor)
            totals = torch.ones(number, n, k, device="cuda")
            sums = list(totals) if weights is spaced else [part.clone() for part in totals]
            results = [run(x, groups, weights, grad, sums) for _ in range(3)]
            for again in results[1:]:
                assert all(torch.equal(a, b) for a, b in zip(results[0], again, strict=True))
            for result, exact in zip(results[0], (*expected, expected[2] + 1), strict=True):
                assert close(result, exact, BOUND[dtype])


@pytest.mark.gpu
def test_gpu_never_waits_for_the_device():
    if torch.cuda.get_device_capability()[0] not in (9, 10):
        pytest.skip("no grouped kernel for this GPU: counts on the device are read there")
    n, k, counts = 64, 128, [100, 0, 28]
    x = random(128, k, dtype=torch.bfloat16, device="cuda")
    grad = random(128, n, dtype=torch.bfloat16, device="cuda")
    weights = list(random(3, n, k, dtype=torch.bfloat16, device="cuda"))
    sums = list(torch.zeros(3, n, k, device="cuda"))
    given = torch.tensor(counts)
    there = given.cuda()
    torch.cuda.synchronize()
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for counted in (given, there):
            run(x, Groups.of(counted, x.device), weights, grad, sums)
    finally:
        torch.cuda.set_sync_debug_mode(mode)


@pytest.mark.gpu
def test_gpu_at_the_size_of_deepseek_v3():
    """Eight experts of hidden size 7168 and width 2048, tokens spread unevenly, one expert idle."""
    hidden, width, counts = 7168, 2048, [1100, 90, 0, 700, 33, 512, 8, 600]
    x = random(sum(counts), hidden, dtype=torch.bfloat16, device="cuda")
    groups = Groups.of(torch.tensor(counts), x.device)
    for n, k in ((2 * width, hidden), (hidden, width)):
        rows = x[:, :k]  # strided for the second
        weights = list(random(8, n, k, seed=1, dtype=torch.bfloat16, device="cuda") * k**-0.5)
        grad = random(len(x), n, seed=2, dtype=torch.bfloat16, device="cuda")
        sums = list(torch.zeros(8, n, k, device="cuda"))
        expected = products(rows, counts, weights, grad)
        for result, exact in zip(
            run(rows, groups, weights, grad, sums), (*expected, expected[2] + 1), strict=True
        ):
            assert close(result, exact, 4e-3)
