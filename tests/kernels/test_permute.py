"""MoE permutation against plain indexing in float64 and megatron-core; kernels run on the host."""

from __future__ import annotations

import ctypes

import pytest
import torch

from tests.distributed.pool import distributed
from tests.kernels.on_host import compile_on_host, pointer
from trivium.kernels import library
from trivium.kernels.permute import permute, sort_chunks, unpermute

# tokens, experts, of each token, hidden: the ends of tiles (32) and warps, more experts than tokens
SIZES = [(70, 5, 2, 12), (32, 40, 3, 7), (1, 8, 2, 16), (33, 3, 3, 4), (5, 1, 1, 3)]


def routing(tokens, experts, top_k, seed=0, device="cpu"):
    """A map with top_k experts a token; the first expert has none if there are enough others."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(tokens, experts, generator=generator)
    if experts > top_k:
        scores[:, 0] = -1
    chosen = torch.zeros(tokens, experts, dtype=torch.bool)
    return chosen.scatter_(1, scores.topk(top_k, dim=1).indices, True).to(device)


def ragged(tokens, experts, device="cpu"):
    """A map with any number of experts a token, none at all included."""
    generator = torch.Generator().manual_seed(tokens)
    chosen = torch.rand(tokens, experts, generator=generator) < 0.3
    chosen[tokens // 2] = False
    return chosen.to(device)


def sources(chosen):
    """Token and expert of each row, by the definition."""
    expert_of, token_of = chosen.t().contiguous().nonzero(as_tuple=True)
    return token_of, expert_of


def random(*shape, seed=1, dtype=torch.float32, device="cpu"):
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(shape, generator=generator, device=device).to(dtype)


def error(ours, exact):
    return float(((ours.double() - exact).norm() / exact.norm().clamp(min=1e-30)).detach())


def bound(dtype):
    return {torch.float32: 1e-6, torch.bfloat16: 4e-3, torch.float16: 1e-3}.get(dtype, 1e-12)


def check(chosen, hidden, dtype, rest, device="cpu"):
    """Values and gradients of permute and unpermute, with weights and without."""
    tokens, experts = chosen.shape
    token_of, expert_of = (index.to(device) for index in sources(chosen.cpu()))
    count = len(token_of)
    x = random(tokens, hidden, dtype=dtype, device=device).requires_grad_()
    weights = random(tokens, experts, seed=2, device=device)
    if dtype == torch.float64:
        weights = weights.double()
    weights.requires_grad_()
    rows, probs, row_map = permute(x, chosen, weights, count + rest)
    assert rows.dtype == dtype
    assert rows.shape == (count + rest, hidden)
    assert torch.equal(rows[:count], x[token_of])
    assert not rows[count:].any()
    assert torch.equal(probs[:count], weights[token_of, expert_of])
    assert not probs[count:].any()
    bare = permute(x, chosen, None, count + rest)
    assert bare.probs_N is None
    assert torch.equal(bare.rows_NH, rows)
    assert torch.equal(bare.row_map, row_map)

    by_rows, by_probs = random(*rows.shape, seed=3, dtype=dtype, device=device), probs * 2
    grad_x, grad_weights = torch.autograd.grad((rows, probs), (x, weights), (by_rows, by_probs))
    exact = torch.zeros(tokens, hidden, dtype=torch.float64, device=device)
    exact.index_add_(0, token_of, by_rows[:count].double())
    assert grad_x.dtype == dtype
    assert error(grad_x, exact) <= bound(dtype)
    assert torch.equal(grad_weights, torch.where(chosen, weights * 2, 0.0))

    y = random(*rows.shape, seed=4, dtype=dtype, device=device).requires_grad_()
    by_tokens = random(tokens, hidden, seed=5, dtype=dtype, device=device)
    found = []
    for merging in (None, weights):
        out = unpermute(y, row_map, tokens, merging)
        leaves = [y] if merging is None else [y, weights]
        grads = torch.autograd.grad(out, leaves, by_tokens)
        again = [leaf.detach().double().requires_grad_() for leaf in leaves]
        parts = again[0][:count]
        if merging is not None:
            parts = parts * again[1][token_of, expert_of].unsqueeze(1)
        exact = torch.zeros(tokens, hidden, dtype=torch.float64, device=device)
        exact = exact.index_add(0, token_of, parts)
        assert out.dtype == dtype
        assert error(out, exact) <= bound(dtype)
        for ours, theirs in zip(
            grads, torch.autograd.grad(exact, again, by_tokens.double()), strict=True
        ):
            assert error(ours, theirs) <= bound(dtype)
        found += [out.detach(), *grads]
    return [row_map, rows.detach(), probs.detach(), grad_x, grad_weights, *found]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_permute_and_unpermute(size, dtype):
    tokens, experts, top_k, hidden = size
    check(routing(tokens, experts, top_k), hidden, dtype, rest=0)


def test_any_number_of_experts_a_token_and_rows_to_spare():
    check(ragged(37, 6), 8, torch.float32, rest=5)


def test_no_tokens():
    check(torch.zeros(0, 4, dtype=torch.bool), 8, torch.float32, rest=2)


def test_the_number_of_rows_is_counted_if_not_given_and_checked_if_given():
    chosen = ragged(9, 4)
    x = random(9, 3)
    assert len(permute(x, chosen).rows_NH) == int(chosen.sum())
    with pytest.raises(ValueError, match="num_rows is 1"):
        permute(x, chosen, None, 1)


def test_one_gradient_alone():
    chosen = routing(6, 4, 2)
    x, weights = random(6, 3).requires_grad_(), random(6, 4).requires_grad_()
    rows, probs, _ = permute(x, chosen, weights, 12)
    probs.sum().backward(retain_graph=True)
    assert torch.equal(weights.grad, chosen.float())
    rows.sum().backward()
    assert torch.equal(x.grad, torch.full_like(x, 2.0))


def check_strides(device="cpu"):
    """What is not contiguous is taken as if it were: columns, repeated rows, odd beginnings."""
    chosen = routing(40, 6, 2, device=device)
    wide = random(40, 6, 2, seed=2, device=device)
    for dtype in (torch.float32, torch.bfloat16):
        x = random(41, 32, 2, dtype=dtype, device=device)
        for part in (
            x[1:, :, 0],
            x[1:, 0, :1],
            x[:1, :, 1].expand(40, -1),
            x[:40].flatten(1)[:, 1:],
        ):
            plain = permute(part.contiguous(), chosen, wide[..., 1].contiguous(), 80)
            rows, probs, row_map = permute(part, chosen.t().contiguous().t(), wide[..., 1], 80)
            assert torch.equal(rows, plain.rows_NH)
            assert torch.equal(probs, plain.probs_N)
            both = torch.stack([rows, rows], dim=2)[..., 0]
            out = unpermute(both, row_map, 40, wide[..., 1])
            assert torch.equal(out, unpermute(rows, row_map, 40, wide[..., 1].contiguous()))
            grads = [
                torch.ops.trivium.moe_permute_backward(one, probs[:1].expand(80), row_map, 40, 6)
                for one in (both[:1].expand(80, -1), both[:1].repeat(80, 1))
            ]
            assert all(map(torch.equal, *grads))
            sizes, order = torch.tensor([30, 50]), torch.tensor([1, 0])
            assert torch.equal(
                sort_chunks(both, sizes, order)[0], torch.cat([rows[30:], rows[:30]])
            )


def test_strides():
    check_strides()


def check_chunks(sizes, order, hidden, dtype, device="cpu"):
    count = sum(sizes)
    rows = random(count, hidden, dtype=dtype, device=device).requires_grad_()
    probs = random(count, seed=2, device=device).requires_grad_()
    sizes_, order_ = torch.tensor(sizes), torch.tensor(order)
    out, out_probs = sort_chunks(rows, sizes_, order_, probs)
    index = torch.arange(count, device=device).split(sizes)
    index = torch.cat([index[i] for i in order])
    assert torch.equal(out, rows[index])
    assert torch.equal(out_probs, probs[index])
    by_rows, by_probs = random(*out.shape, seed=3, dtype=dtype, device=device), out_probs * 2
    grads = torch.autograd.grad((out, out_probs), (rows, probs), (by_rows, by_probs))
    expected = torch.zeros_like(rows).index_copy(0, index, by_rows)
    assert torch.equal(grads[0], expected)
    assert torch.equal(grads[1], probs * 2)
    alone, none = sort_chunks(rows, sizes_.to(device), order_.to(device))
    assert none is None
    assert torch.equal(alone, out)
    return out.detach(), out_probs.detach(), *grads


CHUNKS = [([3, 0, 5, 1], [2, 0, 3, 1]), ([0, 0, 4], [1, 2, 0]), ([7], [0]), ([0, 0], [1, 0])]


@pytest.mark.parametrize(("sizes", "order"), CHUNKS)
def test_chunks(sizes, order):
    check_chunks(sizes, order, 6, torch.bfloat16)


def test_chunks_that_do_not_fit_are_refused():
    rows = random(4, 2)
    with pytest.raises(ValueError, match="4 rows"):
        sort_chunks(rows, torch.tensor([1, 2]), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="each chunk once"):
        sort_chunks(rows, torch.tensor([1, 3]), torch.tensor([0, 0]))


def test_gradcheck():
    chosen = ragged(5, 4)
    count = int(chosen.sum()) + 1
    row_map = permute(torch.zeros(5, 1), chosen, None, count).row_map
    x = random(5, 3, dtype=torch.float64).requires_grad_()
    y = random(count, 3, dtype=torch.float64).requires_grad_()
    weights = random(5, 4, dtype=torch.float64).requires_grad_()
    probs = random(count, dtype=torch.float64).requires_grad_()
    sizes, order = torch.tensor([1, count - 1]), torch.tensor([1, 0])
    assert torch.autograd.gradcheck(lambda x, w: permute(x, chosen, w, count)[:2], (x, weights))
    assert torch.autograd.gradcheck(lambda y, w: unpermute(y, row_map, 5, w), (y, weights))
    assert torch.autograd.gradcheck(lambda y, p: sort_chunks(y, sizes, order, p), (y, probs))


def test_opcheck():
    chosen = routing(6, 4, 2)
    x, weights = random(6, 3).requires_grad_(), random(6, 4).requires_grad_()
    rows, probs, row_map = (one.detach() for one in permute(x, chosen, weights, 13))
    ops, check = torch.ops.trivium, torch.library.opcheck
    check(ops.moe_permute, (x, weights, chosen, 13))
    check(ops.moe_permute, (x, None, chosen, 13))
    check(ops.moe_permute_backward, (rows, probs, row_map, 6, 4))
    check(ops.moe_permute_backward, (rows, None, row_map, 6, 4))
    plain, plain_weights = x.detach(), weights.detach()
    check(ops.moe_unpermute_backward, (plain, rows, plain_weights, row_map, 13))
    check(ops.moe_unpermute_backward, (plain, None, None, row_map, 13))
    check(ops.moe_sort_chunks_backward, (rows, probs, torch.arange(13, dtype=torch.int32)))
    rows.requires_grad_()
    check(ops.moe_unpermute, (rows, weights, row_map, 6))
    check(ops.moe_unpermute, (rows, None, row_map, 6))
    sizes, order = torch.tensor([4, 9]), torch.tensor([1, 0])
    check(ops.moe_sort_chunks, (rows, probs, sizes, order))
    check(ops.moe_sort_chunks, (rows, None, sizes, order))


# --- In megatron-core's place ---------------------------------------------------------------------


def both_ways(function, *leaves):
    """Outputs and gradients with `fused` and without."""
    answers = []
    for fused in (True, False):
        fresh = [leaf.detach().clone().requires_grad_() for leaf in leaves]
        outputs = [out for out in function(fused, *fresh) if out is not None]
        sum((out * torch.arange(out.numel()).view(out.shape)).sum() for out in outputs).backward()
        answers.append([*outputs, *(leaf.grad for leaf in fresh)])
    return zip(*answers, strict=True)


@distributed(1)
def test_equals_megatron_unfused():
    from megatron.core.transformer.moe import moe_utils

    from trivium.engine.model import moe_hooks

    moe_hooks.install()
    chosen = routing(37, 6, 2)
    count = int(chosen.sum())
    for probs in (random(37, 6, seed=2), None):

        def there_and_back(fused, x, weights=None):
            rows, row_probs, index = moe_utils.permute(
                x, chosen, probs=weights, num_out_tokens=torch.tensor(count), fused=fused
            )
            scaled = rows * 3 if row_probs is None else rows * row_probs.unsqueeze(1)
            back = moe_utils.unpermute(scaled, index, x.shape, routing_map=chosen, fused=fused)
            merged = moe_utils.unpermute(
                rows, index, x.shape, probs=weights, routing_map=chosen, fused=fused
            )
            return rows, row_probs, back, merged

        for ours, theirs in both_ways(
            there_and_back, random(37, 8), *([] if probs is None else [probs])
        ):
            torch.testing.assert_close(ours, theirs)

    def chunks(fused, x, weights):
        sizes, order = torch.tensor([30, 0, 7]), torch.tensor([2, 0, 1])
        moved = moe_utils.sort_chunks_by_idxs(x, sizes, order, weights, fused=fused)
        return *moved, *moe_utils.sort_chunks_by_idxs(x, sizes, order, fused=fused)

    for ours, theirs in both_ways(chunks, random(37, 8), random(37)):
        assert torch.equal(ours, theirs)
    rows, probs, sizes = random(37, 8), random(37), torch.tensor([30, 0, 7])
    moved = moe_utils.sort_chunks_by_idxs(rows, sizes, torch.arange(3), probs, fused=True)
    assert moved[0] is rows  # on one rank nothing moves
    assert moved[1] is probs


@distributed(1)
def test_dropped_tokens_padded_to_capacity():
    """Each expert's column then has the same number of tokens, as megatron-core wants."""
    from megatron.core.transformer.moe import moe_utils

    from trivium.engine.model import moe_hooks

    moe_hooks.install()
    probs, chosen = moe_utils.apply_router_token_dropping(
        random(20, 4).softmax(1), routing(20, 4, 2), 2, 0.8, pad_to_capacity=True
    )
    x, capacity = random(20, 8), int(chosen.sum(0)[0])
    ours, theirs = (
        moe_utils.permute(x, chosen, probs, 4 * capacity, fused=fused, drop_and_pad=True)
        for fused in (True, False)
    )
    assert torch.equal(ours[0], theirs[0])
    assert torch.equal(ours[1], theirs[1])
    back = [
        moe_utils.unpermute(
            one[0], one[2], x.shape, routing_map=chosen, fused=fused, drop_and_pad=True
        )
        for one, fused in ((ours, True), (theirs, False))
    ]
    torch.testing.assert_close(*back)


# --- The kernels, run on the host -----------------------------------------------------------------

HOST = """
#include "cuda_on_host.h"
#include "permute_rows.h"
using namespace trivium;
using namespace trivium::permute;

template <int VEC>
static void back(int64_t tokens, int64_t experts, int64_t hidden, int64_t num_rows, int threads,
                 const float* weights, const int2* pairs, const int* offsets, const float* rows,
                 const float* by_tokens, float* sums, float* grad_rows, float* grad_weights) {
  launch(tokens, threads, [=] {
    sum_rows<float, VEC>(rows, weights, pairs, offsets, hidden, experts, sums);
  });
  launch(tokens + 2, threads, [=] {
    sum_rows_backward<float, VEC>(by_tokens, rows, weights, pairs, offsets, tokens, hidden, experts,
                                  num_rows, grad_rows, grad_weights);
  });
}

extern "C" bool run(int64_t tokens, int64_t experts, int64_t hidden, int64_t num_rows, int threads,
                    const uint8_t* map, const float* x, const float* weights, float* rows,
                    float* row_probs, int* row_map, const float* by_tokens, float* sums,
                    float* grad_rows, float* grad_weights, float* spread) {
  const int64_t tiles = (tokens + kTile - 1) / kTile;
  std::vector<uint32_t> words(experts * tiles, 77);
  std::vector<int> before(experts * tiles, 77), totals(experts, 77), ones(tiles, 77);
  launch(tiles, kThreads,
         [&] { pack_tiles(map, tokens, experts, tiles, words.data(), ones.data()); });
  launch(experts, kThreads, [&] { scan_tiles(words.data(), tiles, before.data(), totals.data()); });
  int2* pairs = reinterpret_cast<int2*>(row_map);
  int* offsets = row_map + 2 * num_rows;
  if (!launch(tiles, kThreads, [&] {
        list_pairs<float>(words.data(), before.data(), totals.data(), ones.data(), tokens, experts,
                          tiles, num_rows, pairs, offsets, weights, row_probs);
      }))
    return false;
  launch(tokens + 2, threads,
         [&] { scatter_rows<float>(x, pairs, offsets, tokens, hidden, num_rows, rows); });
  if (hidden % 4 == 0)
    back<4>(tokens, experts, hidden, num_rows, threads, weights, pairs, offsets, rows, by_tokens,
            sums, grad_rows, grad_weights);
  else
    back<1>(tokens, experts, hidden, num_rows, threads, weights, pairs, offsets, rows, by_tokens,
            sums, grad_rows, grad_weights);
  launch((tokens + 1) / 2, 64,
         [&] { spread_probs<float>(row_probs, pairs, offsets, tokens, experts, spread); });
  return true;
}

extern "C" bool chunks(int64_t count, int64_t rows, int64_t hidden, const int64_t* sizes,
                       const int64_t* order, const float* x, const float* probs, int* source,
                       float* sorted_probs, float* to, float* back, float* probs_back) {
  if (!launch(2, kThreads,
              [=] { find_sources<float>(sizes, order, count, rows, source, probs, sorted_probs); }))
    return false;
  launch(rows, 32, [=] { move_rows<float, true>(x, source, hidden, to); });
  launch(rows, 32, [=] { move_rows<float, false>(to, source, hidden, back); });
  launch(2, kThreads, [=] { return_probs<float>(sorted_probs, source, rows, probs_back); });
  return true;
}
"""


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    library = compile_on_host(HOST, tmp_path_factory.mktemp("permute"))
    library.run.restype = library.chunks.restype = ctypes.c_bool
    return library


def integers(*values):
    return [ctypes.c_int64(value) for value in values]


@pytest.mark.parametrize("threads", [32, 96])
@pytest.mark.parametrize(
    ("chosen", "hidden", "rest"),
    [
        *((routing(t, e, k), h, 0) for t, e, k, h in SIZES),
        (ragged(66, 35), 160, 3),
        (ragged(300, 3), 4, 0),
        (torch.zeros(3, 2, dtype=torch.bool), 4, 2),
    ],
    ids=lambda value: str(tuple(value.shape)) if isinstance(value, torch.Tensor) else str(value),
)
def test_kernels_on_the_host_equal_the_reference(host, chosen, hidden, rest, threads):
    tokens, experts = chosen.shape
    x, weights = random(tokens, hidden), random(tokens, experts, seed=2)
    num_rows = int(chosen.sum()) + rest
    expected = permute(x, chosen, weights, num_rows)
    by_tokens = random(tokens, hidden, seed=3)
    rows, row_probs = torch.full((num_rows, hidden), torch.nan), torch.full((num_rows,), torch.nan)
    row_map = torch.full_like(expected.row_map, 99)
    sums, grad_rows = torch.full_like(x, torch.nan), torch.full_like(rows, torch.nan)
    grad_weights = torch.full_like(weights, torch.nan)
    spread = torch.full_like(weights, torch.nan)
    outputs = (sums, grad_rows, grad_weights, spread)
    assert host.run(
        *integers(tokens, experts, hidden, num_rows),
        threads,
        *map(pointer, (chosen, x, weights, rows, row_probs, row_map, by_tokens, *outputs)),
    )
    assert torch.equal(row_map, expected.row_map)
    assert torch.equal(rows, expected.rows_NH)
    assert torch.equal(row_probs, expected.probs_N)
    ops = torch.ops.trivium
    torch.testing.assert_close(sums, unpermute(rows, row_map, tokens, weights))
    expected_rows, expected_weights = ops.moe_unpermute_backward(
        by_tokens, rows, weights, row_map, num_rows
    )
    torch.testing.assert_close(grad_rows, expected_rows)
    torch.testing.assert_close(grad_weights, expected_weights)
    assert torch.equal(spread, torch.where(chosen, weights, 0.0))


def test_too_few_rows_trap_on_the_host(host):
    chosen = routing(8, 4, 2)
    spare = torch.zeros(400)
    assert not host.run(
        *integers(8, 4, 1, 15), 32, pointer(chosen), *(pointer(spare) for _ in range(9))
    )


@pytest.mark.parametrize(
    ("sizes", "order"), [*CHUNKS, ([1] * 300 + [0, 9], [301, *range(300, -1, -1)])], ids=range(5)
)
def test_chunk_kernels_on_the_host(host, sizes, order):
    count = sum(sizes)
    x, probs = random(count, 35), random(count, seed=2)
    sizes_, order_ = torch.tensor(sizes), torch.tensor(order)
    out, out_probs, source = torch.ops.trivium.moe_sort_chunks(x, probs, sizes_, order_)
    answers = [torch.full_like(one, 9) for one in (source, out_probs, out, x, probs)]
    assert host.chunks(
        *integers(len(sizes), count, 35), *map(pointer, (sizes_, order_, x, probs, *answers))
    )
    for ours, theirs in zip(answers, (source, out_probs, out, x, probs), strict=True):
        assert torch.equal(ours, theirs)
    if count:
        wrong = torch.tensor([*order[:-1], -1])
        assert not host.chunks(
            *integers(len(sizes), count, 35), *map(pointer, (sizes_, wrong, x, probs, *answers))
        )


# --- On a GPU -------------------------------------------------------------------------------------


def poison():
    """What kernels leave unwritten is NaN: freed memory is given out again."""
    held = [torch.full((1 << size,), torch.nan, device="cuda") for size in range(4, 24)]
    del held


def thrice(function):
    """What `function` gives, the same bit for bit in each of three runs."""
    runs = []
    for _ in range(3):
        poison()
        runs.append([one.clone() for one in function()])
    for again in runs[1:]:
        assert all(map(torch.equal, runs[0], again))
    return runs[0]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_kernels(dtype):
    assert library.load() is None
    sizes = [*SIZES, (333, 160, 6, 1), (257, 64, 4, 513), (1000, 2048, 3, 8)]
    cases = [(routing(t, e, k), h, 0) for t, e, k, h in sizes]
    cases += [(ragged(300, 33), 72, 5), (torch.zeros(3, 2, dtype=torch.bool), 4, 2)]
    cases += [(torch.zeros(0, 4, dtype=torch.bool), 8, 2)]
    for chosen, hidden, rest in cases:
        found = thrice(
            lambda c=chosen, h=hidden, r=rest: check(c.cuda(), h, dtype, r, device="cuda")
        )
        x = torch.zeros(len(chosen), 1)
        expected = permute(x, chosen, None, int(chosen.sum()) + rest)
        assert torch.equal(found[0].cpu(), expected.row_map)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("tokens", "experts", "top_k", "hidden"), [(8192, 8, 2, 4096), (1024, 256, 8, 7168)]
)
def test_kernels_on_large_shapes(tokens, experts, top_k, hidden):
    assert library.load() is None
    chosen = routing(tokens, experts, top_k, device="cuda")
    poison()
    check(chosen, hidden, torch.bfloat16, 0, device="cuda")


@pytest.mark.gpu
def test_kernels_and_strides():
    assert library.load() is None
    check_strides("cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_chunk_kernels(dtype):
    assert library.load() is None
    many = torch.randint(0, 40, (512,), generator=torch.Generator().manual_seed(0)).tolist()
    mixed = torch.randperm(512, generator=torch.Generator().manual_seed(1)).tolist()
    for sizes, order in [*CHUNKS, (many, mixed)]:
        for hidden in (1, 7, 256):
            thrice(lambda s=sizes, o=order, h=hidden: check_chunks(s, o, h, dtype, device="cuda"))


@pytest.mark.gpu
def test_kernels_do_not_wait_for_the_device():
    assert library.load() is None
    chosen = routing(64, 8, 2, device="cuda")
    x = random(64, 16, device="cuda").requires_grad_()
    weights = random(64, 8, device="cuda").requires_grad_()
    sizes = torch.tensor([100, 28], device="cuda")
    order = torch.tensor([1, 0], device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        rows, probs, row_map = permute(x, chosen, weights, 128)
        moved, probs = sort_chunks(rows * 2, sizes, order, probs)
        back = unpermute(moved, row_map, 64, weights)
        (back.sum() + probs.sum()).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert x.grad is not None
