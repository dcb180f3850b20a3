"""Cross-entropy over a sharded vocabulary: the reference, the row's arithmetic, the kernels."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tests.distributed.pool import distributed
from trivium.kernels.cross_entropy import token_scores, weighted_cross_entropy

BOUNDS = {torch.float64: 1e-12, torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 4e-3}
OPERATORS = torch.ops.trivium


def draw(rows, columns, dtype=torch.float32, device="cpu", seed=0, vocab_size=None):
    """Logits, labels of which some are ignored, and a random gradient for each score."""
    generator = torch.Generator(device).manual_seed(seed)
    like = {"generator": generator, "device": device}
    logits = (torch.randn(rows, columns, **like) * 3).to(dtype)
    labels = torch.randint(vocab_size or columns, (rows,), **like)
    labels[::5] = -100
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    by = [torch.randn(rows, dtype=wide, **like) for _ in range(3)]
    return logits, labels, by


def twin(logits):
    """A leaf of the same values in float64."""
    return logits.detach().clone().double().requires_grad_()


def exact(logits, labels, vocab_size):
    """In float64, differentiable: nll, logsumexp, entropy."""
    valid = logits.double()[:, :vocab_size]
    log_p = valid.log_softmax(-1)
    nll = -log_p.gather(1, labels.clamp(min=0).unsqueeze(1)).squeeze(1) * (labels >= 0)
    entropy = -(log_p.exp() * log_p.clamp(min=-1e30)).sum(-1)
    return nll, valid.logsumexp(-1), entropy


def apart(found, expected):
    """Relative difference in the 2-norm."""
    found, expected = found.double(), expected.double()
    return float((found - expected).norm() / expected.norm().clamp(min=1e-30))


def check(logits, labels, by, vocab_size, entropy=True):
    """Scores and gradients against float64; the gradient is written over the logits."""
    bound = BOUNDS[logits.dtype]
    by = by if entropy else by[:2]
    leaf = twin(logits)
    expected = exact(leaf, labels, vocab_size)[: len(by)]
    torch.autograd.backward(expected, [one.double() for one in by])

    ours = logits.detach().clone().requires_grad_()
    copy, places = ours * 1.0, []
    copy.register_hook(lambda gradient: places.append(gradient.data_ptr()))
    found = token_scores(copy, labels, None, vocab_size, entropy)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=min(bound, 1e-6), atol=1e-5)
    torch.autograd.backward(found, by)
    assert places == [copy.data_ptr()]
    assert apart(ours.grad, leaf.grad) <= bound
    assert not ours.grad[:, vocab_size:].any()


def check_weighted(logits, labels, weights, vocab_size, factor, z_weight):
    """The gradient taken in the forward pass against float64."""
    bound = BOUNDS[logits.dtype]
    leaf = twin(logits)
    nll, logsumexp, _ = exact(leaf, labels, vocab_size)
    expected = ((nll + z_weight * logsumexp.square()) * weights.double()).sum()
    (expected * factor).backward()

    ours = logits.detach().clone().requires_grad_()
    copy, places = ours * 1.0, []
    copy.register_hook(lambda gradient: places.append(gradient.data_ptr()))
    total, our_nll, our_logsumexp = weighted_cross_entropy(
        copy, labels, weights, None, vocab_size, z_weight
    )
    torch.testing.assert_close(our_nll.double(), nll.detach(), rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(our_logsumexp.double(), logsumexp.detach(), rtol=1e-6, atol=1e-5)
    each = 1e-5 * float(weights.abs().sum())  # terms of either sign
    assert float(total.detach()) == pytest.approx(float(expected.detach()), rel=1e-5, abs=each)
    (total * factor).backward()
    assert places == [copy.data_ptr()]
    # scaled after it was rounded: once more rounded where the factor is no power of 2
    assert apart(ours.grad, leaf.grad) <= bound
    assert not ours.grad[:, vocab_size:].any()


# --- The reference --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("entropy", [False, True])
def test_scores_and_gradient_against_float64(dtype, entropy):
    logits, labels, by = draw(17, 203, dtype, vocab_size=198)
    check(logits, labels, by, 198, entropy)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("z_weight", [0.0, 1e-2])
@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_gradient_taken_in_the_forward_pass(dtype, z_weight, factor):
    logits, labels, by = draw(17, 203, dtype, vocab_size=198)
    check_weighted(logits, labels, by[0], 198, factor, z_weight)


def test_fp16_waits_for_the_loss_scale():
    logits, labels, _ = draw(7, 33, torch.float16)
    logits.requires_grad_()
    copy = logits * 1.0
    kept = copy.detach().clone()
    total, nll, _ = weighted_cross_entropy(copy, labels, torch.ones(7))
    assert torch.equal(copy, kept)
    (total * 2.0**14).backward()
    assert logits.grad.abs().max() > 2**12
    assert nll.grad_fn is None


def test_no_gradient_no_writing():
    logits, labels, _ = draw(7, 33)
    kept = logits.clone()
    with torch.no_grad():
        weighted_cross_entropy(logits.requires_grad_(), labels, torch.ones(7))
    assert torch.equal(logits, kept)


def test_infinite_logits_are_impossible_tokens():
    logits, labels, by = draw(6, 40)
    logits[:, 3:20] = -torch.inf
    labels = torch.where(labels >= 0, 25, labels)
    check(logits, labels, by, 40)


def test_what_is_no_number_reaches_the_loss():
    for bad in (torch.nan, torch.inf):
        logits, labels, _ = draw(3, 40)
        logits[1, 7] = bad
        nll, logsumexp = token_scores(logits, labels)
        assert not logsumexp[1].isfinite()
        assert not nll[1].isfinite()
        assert logsumexp[::2].isfinite().all()


def test_logits_of_strided_rows():
    wide, labels, by = draw(8, 96)
    logits = wide[:, 10:75].clone(memory_format=torch.preserve_format).requires_grad_()
    window = (torch.zeros(8, 96).index_copy(1, torch.arange(10, 75), logits))[:, 10:75]
    assert not window.is_contiguous()
    labels = labels.clamp(max=64)
    nll, _ = token_scores(window, labels)
    (nll * by[0]).sum().backward()
    leaf = twin(wide[:, 10:75])
    (exact(leaf, labels, 65)[0] * by[0]).sum().backward()
    assert apart(logits.grad, leaf.grad) <= 1e-6
    transposed = wide.t().contiguous().t()
    torch.testing.assert_close(token_scores(transposed, labels)[0], token_scores(wide, labels)[0])


def test_a_second_backward_is_an_error():
    logits, labels, _ = draw(4, 30)
    logits.requires_grad_()
    for scores in (
        lambda: token_scores(logits * 1.0, labels)[0].sum(),
        lambda: weighted_cross_entropy(logits * 1.0, labels, torch.ones(4))[0],
    ):
        total = scores()
        total.backward(retain_graph=True)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            total.backward()


def test_a_vocabulary_that_does_not_fit_is_refused():
    logits, labels, _ = draw(4, 30)
    with pytest.raises(ValueError, match="vocab_size=31"):
        token_scores(logits, labels, None, 31)


def test_no_rows():
    logits = torch.zeros(0, 30, requires_grad=True)
    nll, _ = token_scores(logits * 1.0, torch.zeros(0, dtype=torch.long))
    nll.sum().backward()
    total, *_ = weighted_cross_entropy(
        logits * 1.0, torch.zeros(0, dtype=torch.long), torch.zeros(0)
    )
    total.backward()
    assert logits.grad.shape == (0, 30)
    assert float(total.detach()) == 0


def test_operators_are_well_formed():
    logits, labels, by = draw(5, 24)
    scores = torch.stack([*by, by[0], by[1].abs() + 1])
    statistics = OPERATORS.cross_entropy_statistics(logits, labels, 0, 20, True)
    check_op = torch.library.opcheck
    check_op(OPERATORS.cross_entropy_statistics, (logits, labels, 0, 20, True))
    check_op(OPERATORS.cross_entropy_combine, (statistics.unsqueeze(0), labels, True))
    check_op(OPERATORS.cross_entropy_gradient_, (logits, labels, scores, *by, 0, 20))
    check_op(OPERATORS.cross_entropy_gradient_, (logits, labels, scores, by[0], None, None, 0, 20))
    check_op(OPERATORS.cross_entropy_one_pass_, (logits, labels, by[0], 0.1, 20, True))
    check_op(OPERATORS.cross_entropy_scale_, (logits, torch.tensor(2.0)))


def test_one_pass_gives_the_scores_of_two():
    logits, labels, by = draw(9, 50)
    parts = OPERATORS.cross_entropy_statistics(logits, labels, 0, 47, True)
    two = OPERATORS.cross_entropy_combine(parts.unsqueeze(0), labels, True)
    one = OPERATORS.cross_entropy_one_pass_(logits, labels, by[0], 0.0, 47, True)
    torch.testing.assert_close(one, two)


def check_shards(dtype, vocab_size, columns, device="cpu"):
    """On every rank: entropy and all, against the whole vocabulary."""
    world, rank = dist.get_world_size(), dist.get_rank()
    logits, labels, by = draw(13, columns * world, dtype, device, seed=3, vocab_size=vocab_size)
    leaf = twin(logits)
    expected = exact(leaf, labels, vocab_size)
    torch.autograd.backward(expected, [one.double() for one in by])
    mine = slice(rank * columns, (rank + 1) * columns)
    ours = logits[:, mine].clone().requires_grad_()
    found = token_scores(ours * 1.0, labels, dist.group.WORLD, vocab_size, entropy=True)
    every = torch.stack(found).detach()
    gathered = [torch.empty_like(every) for _ in range(world)]
    dist.all_gather(gathered, every)
    assert all(torch.equal(one, every) for one in gathered)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-6, atol=1e-5)
    torch.autograd.backward(found, by)
    wanted = leaf.grad[:, mine]
    assert apart(ours.grad, wanted) <= BOUNDS[dtype] if wanted.any() else not ours.grad.any()

    again = logits[:, mine].clone().requires_grad_()
    total, nll, _ = weighted_cross_entropy(
        again * 1.0, labels, by[0], dist.group.WORLD, vocab_size, z_weight=1e-2
    )
    leaf = twin(logits)
    whole = exact(leaf, labels, vocab_size)
    ((whole[0] + 1e-2 * whole[1].square()) * by[0]).sum().backward()
    total.backward()
    wanted = leaf.grad[:, mine]
    assert apart(again.grad, wanted) <= BOUNDS[dtype] if wanted.any() else not again.grad.any()
    assert torch.equal(nll, found[0].detach())


@pytest.mark.parametrize("padding", [0, 5, 24, 30])
@distributed(2)
def test_two_shards(padding):
    check_shards(torch.float32, 48 - padding, 24)


@distributed(2)
def test_two_shards_in_bf16():
    check_shards(torch.bfloat16, 45, 24)


# --- The arithmetic of the kernels, compiled for this machine -------------------------------------

ROWS_OF_THE_KERNEL = r"""
#include "cross_entropy_row.h"
using namespace trivium::cross_entropy;

// one row, cut into `parts` that are merged: as threads, blocks and ranks do
template <bool kEntropy>
void row(const float* x, int valid, int parts, int label, const float* by, float* scores,
         float* g) {
  Statistics whole;
  for (int part = 0; part < parts; ++part) {
    Statistics s;
    for (int first = 4 * part; first < valid; first += 4 * parts) {
      float pack[4];
      for (int i = 0; i < 4; ++i) pack[i] = first + i < valid ? x[first + i] : -INFINITY;
      add<kEntropy, 4>(s, pack);
    }
    whole = merged<kEntropy>(whole, s);
  }
  const bool mine = label >= 0 && label < valid;
  const Scores found = scores_of<kEntropy>(whole, mine ? x[label] : 0.0f, label < 0);
  scores[0] = found.nll, scores[1] = found.logsumexp, scores[2] = found.entropy;
  const RowGradient gradient = gradient_of(found, by[0], by[1], kEntropy ? by[2] : 0.0f, label < 0);
  for (int i = 0; i < valid; ++i)
    g[i] = gradient_at<kEntropy>(gradient, x[i]) - (i == label ? gradient.at_label : 0.0f);
}

extern "C" void rows_of(const float* x, int rows, int columns, int valid, int parts, bool entropy,
                        const long* labels, const float* by, float* scores, float* g) {
  for (int r = 0; r < rows; ++r) {
    auto* f = entropy ? row<true> : row<false>;
    f(x + r * columns, valid, parts, labels[r], by + 3 * r, scores + 3 * r, g + r * columns);
  }
}
"""


@pytest.fixture(scope="module")
def compiled_rows(tmp_path_factory):
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not here")
    folder = tmp_path_factory.mktemp("cross_entropy")
    (folder / "rows.cpp").write_text(ROWS_OF_THE_KERNEL)
    headers = Path(__file__).parents[2] / "kernels" / "csrc"
    subprocess.run(
        [compiler, "-std=c++20", "-O1", "-shared", "-fPIC", f"-I{headers}", "rows.cpp", "-o",
         "rows.so"], cwd=folder, check=True,
    )  # fmt: skip
    return ctypes.CDLL(str(folder / "rows.so")).rows_of


@pytest.mark.parametrize("parts", [1, 3, 64])
@pytest.mark.parametrize("entropy", [False, True])
def test_arithmetic_of_the_kernels(compiled_rows, parts, entropy):
    rows, columns, valid = 9, 203, 198
    logits, labels, by = draw(rows, columns, vocab_size=valid)
    logits[2, :50] = -torch.inf
    labels[2], labels[7] = 60, 3
    packed = torch.stack(by, dim=1).contiguous()
    scores, gradient = torch.zeros(rows, 3), torch.zeros(rows, columns)
    compiled_rows(
        *(ctypes.c_void_p(t.data_ptr()) for t in (logits,)), rows, columns, valid, parts, entropy,
        *(ctypes.c_void_p(t.data_ptr()) for t in (labels, packed, scores, gradient)),
    )  # fmt: skip
    leaf = twin(logits)
    expected = exact(leaf, labels, valid)
    torch.autograd.backward(expected[: 3 if entropy else 2], by[: 3 if entropy else 2])
    for index, one in enumerate(expected[: 3 if entropy else 2]):
        torch.testing.assert_close(scores[:, index].double(), one.detach(), rtol=1e-6, atol=2e-6)
    assert apart(gradient, leaf.grad) <= 1e-6


# --- The kernels ----------------------------------------------------------------------------------

gpu = pytest.mark.gpu


@pytest.fixture
def kernels():
    from trivium.kernels.library import load

    assert load() is None
    return "cuda"


def poison(rows, columns, dtype):
    """Leave no numbers in the memory that is allocated next."""
    for shape in ((rows, columns), (5, rows), (4, rows)):
        torch.full(shape, torch.nan, dtype=dtype, device="cuda")


@gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("rows", "columns", "vocab_size"),
    [
        (1, 1, 1),
        (3, 7, 5),
        (5, 4099, 4097),
        (67, 50257, 50257),
        (33, 128256, 128256),
        (16, 129280, 129280),
        (9, 151936, 151643),
        (4, 262144 + 3, 262144),
    ],
)
def test_kernels_against_float64(kernels, dtype, rows, columns, vocab_size):
    logits, labels, by = draw(rows, columns, dtype, kernels, vocab_size=vocab_size)
    poison(rows, columns, dtype)
    check(logits, labels, by, vocab_size, entropy=True)
    check(logits, labels, by, vocab_size, entropy=False)
    if dtype != torch.float16:
        check_weighted(logits, labels, by[0], vocab_size, 1.0, 1e-3)
        check_weighted(logits, labels, by[0], vocab_size, 0.5, 0.0)


@gpu
@pytest.mark.parametrize("offset", [0, 1, 5])
@pytest.mark.parametrize("width", [640, 1003])
def test_kernels_leave_the_neighbours_of_a_row_alone(kernels, offset, width):
    wide = torch.full((21, 1100), 7.0, dtype=torch.bfloat16, device=kernels)
    logits, labels, by = draw(21, width, torch.bfloat16, kernels)
    scores = OPERATORS.cross_entropy_combine(
        OPERATORS.cross_entropy_statistics(logits, labels, 0, width - 2, True).unsqueeze(0),
        labels, True,
    )  # fmt: skip
    expected = logits.clone()
    OPERATORS.cross_entropy_gradient_(expected, labels, scores, *by, 0, width - 2)
    one_expected = logits.clone()
    OPERATORS.cross_entropy_one_pass_(one_expected, labels, by[0], 0.0, width - 2, True)
    window = wide[:, offset : offset + width]
    for pass_, wanted in (("two", expected), ("one", one_expected)):
        window.copy_(logits)
        again = OPERATORS.cross_entropy_statistics(window, labels, 0, width - 2, True)
        again = OPERATORS.cross_entropy_combine(again.unsqueeze(0), labels, True)
        torch.testing.assert_close(again, scores, rtol=1e-5, atol=1e-5)
        if pass_ == "two":
            OPERATORS.cross_entropy_gradient_(window, labels, scores, *by, 0, width - 2)
            assert torch.equal(window, wanted)
        else:
            found = OPERATORS.cross_entropy_one_pass_(window, labels, by[0], 0.0, width - 2, True)
            torch.testing.assert_close(found, scores, rtol=1e-5, atol=1e-5)
            assert apart(window, wanted) <= 4e-3
        assert (wide[:, :offset] == 7).all()
        assert (wide[:, offset + width :] == 7).all()


@gpu
def test_kernels_repeat_bit_for_bit(kernels):
    logits, labels, by = draw(300, 128256, torch.bfloat16, kernels)
    seen = []
    for _ in range(3):
        one, two = logits.clone(), logits.clone()
        poison(300, 128256, torch.bfloat16)
        scores = OPERATORS.cross_entropy_one_pass_(one, labels, by[0], 1e-4, 128256, True)
        parts = OPERATORS.cross_entropy_statistics(two, labels, 0, 128256, True)
        others = OPERATORS.cross_entropy_combine(parts.unsqueeze(0), labels, True)
        OPERATORS.cross_entropy_gradient_(two, labels, others, *by, 0, 128256)
        seen.append((one, two, scores, others))
    for again in seen[1:]:
        assert all(torch.equal(a, b) for a, b in zip(seen[0], again, strict=True))


@gpu
def test_kernels_of_a_shard_and_of_padding_alone(kernels):
    logits, labels, by = draw(12, 4096, torch.bfloat16, kernels)
    shards = [logits[:, :2048].clone(), logits[:, 2048:].clone(), torch.full_like(logits, 9.0)]
    starts, valids = [0, 2048, 4096], [2048, 2048, 0]
    parts = [
        OPERATORS.cross_entropy_statistics(shard, labels, start, valid, True)
        for shard, start, valid in zip(shards, starts, valids, strict=True)
    ]
    scores = OPERATORS.cross_entropy_combine(torch.stack(parts), labels, True)
    leaf = twin(logits)
    expected = exact(leaf, labels, 4096)
    torch.autograd.backward(expected, [one.double() for one in by])
    torch.testing.assert_close(scores[:3].double(), torch.stack(expected), rtol=1e-5, atol=1e-5)
    for shard, start, valid in zip(shards, starts, valids, strict=True):
        OPERATORS.cross_entropy_gradient_(shard, labels, scores, *by, start, valid)
    assert apart(torch.cat(shards[:2], dim=1), leaf.grad) <= 4e-3
    assert not shards[2].any()


@gpu
def test_peak_memory_is_that_of_the_logits(kernels):
    logits, labels, by = draw(2048, 131072, torch.bfloat16, kernels)
    size = logits.numel() * logits.element_size()
    logits.requires_grad_()
    for scored in (
        lambda: weighted_cross_entropy(logits, labels, by[0])[0],
        lambda: token_scores(logits, labels)[0].sum(),
    ):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        torch.autograd.grad(scored(), logits)
        assert torch.cuda.max_memory_allocated() - before <= 0.1 * size
