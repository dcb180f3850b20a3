"""MoE routing against its formulas in float64 and megatron-core; kernels run on the host."""

from __future__ import annotations

import ctypes
import itertools

import pytest
import torch

from tests.distributed.pool import distributed
from tests.kernels.on_host import compile_on_host, pointer
from trivium.kernels import library
from trivium.kernels.router import SCORES, balance_loss, balance_scores, route

# experts, top_k, groups, groups kept, scale
RULES = [(8, 2, 1, 1, 1.0), (8, 1, 1, 1, 1.0), (16, 4, 4, 2, 2.5), (70, 6, 1, 1, 1.0)]
RULES += [(24, 4, 8, 3, 1.5), (256, 8, 8, 4, 2.5)]


def random(*shape, seed=1, dtype=torch.float32, device="cpu", scale=1.0):
    generator = torch.Generator(device).manual_seed(seed)
    return (torch.randn(shape, generator=generator, device=device) * scale).to(dtype)


def error(ours, exact):
    return float(((ours.double() - exact).norm() / exact.norm().clamp(min=1e-30)).detach())


def bound(dtype):
    return {torch.float32: 1e-6, torch.bfloat16: 4e-3, torch.float16: 1e-3}.get(dtype, 1e-12)


def first_largest(x, k):
    """Where the k largest of each row are; of equal ones the first, by the definition."""
    return (-x).sort(dim=1, stable=True).indices[:, :k]


def expected_choice(scores, top_k, groups, kept):
    """The bool map by the definition."""
    tokens, experts = scores.shape
    scores = scores.clone()
    if groups > 1:
        parts = scores.view(tokens, groups, -1)
        strength = parts.sort(2, descending=True).values[:, :, : top_k // kept].sum(2)
        best = torch.zeros_like(strength, dtype=torch.bool)
        best.scatter_(1, first_largest(strength, kept), True)
        scores.view(tokens, groups, -1)[~best] = -torch.inf
    chosen = torch.zeros(tokens, experts, dtype=torch.bool)
    return chosen.scatter_(1, first_largest(scores, top_k), True)


def expected_weights(x, chosen, score, top_k, scale):
    """Dense weights of a given choice, in the dtype of x."""
    if score == "softmax":
        weights = x.masked_fill(~chosen, -torch.inf).softmax(1)
    elif score == "pre_softmax":
        weights = x.softmax(1) * chosen
    else:
        weights = x.sigmoid() * chosen
        if top_k > 1:
            weights = weights / weights.sum(1, keepdim=True)
    return weights * scale


def scores_of(x, score, bias=None):
    scores = {"softmax": lambda: x, "pre_softmax": lambda: x.softmax(1)}
    scores = scores.get(score, x.sigmoid)()
    return scores if bias is None else scores + bias


def check(rule, score, dtype, tokens, device="cpu"):
    """The choice is a right one; its weights and their gradient are those of float64."""
    experts, top_k, groups, kept, scale = rule
    logits = random(tokens, experts, dtype=dtype, device=device).requires_grad_()
    bias = random(experts, seed=2, device=device, scale=0.05) if score == "sigmoid" else None
    probs, chosen = route(
        logits, top_k, score=score, bias_E=bias, num_groups=groups, group_top_k=kept, scale=scale
    )
    assert probs.dtype == dtype
    assert chosen.dtype == torch.bool
    exact = logits.detach().double().requires_grad_()
    scores = scores_of(exact.detach(), score, bias).cpu()
    expected = expected_choice(scores, top_k, groups, kept).to(device)
    differ = (chosen != expected).any(1)  # where rounding makes or breaks a tie
    assert torch.equal(chosen.sum(1), torch.full_like(chosen[:, 0], top_k, dtype=torch.long))
    assert int(differ.sum()) <= tokens // 1000
    weights = expected_weights(exact, chosen, score, top_k, scale)
    assert error(probs, weights) <= bound(dtype)
    assert not probs[~chosen].any()

    upstream = random(tokens, experts, seed=3, dtype=dtype, device=device)
    (ours,) = torch.autograd.grad(probs, logits, upstream)
    (theirs,) = torch.autograd.grad(weights, exact, upstream.double())
    assert ours.dtype == dtype
    if top_k > 1 or score != "softmax":  # the gradient of a constant
        assert error(ours, theirs) <= bound(dtype)
    return probs, chosen, ours


def check_balance(experts, top_k, score, dtype, tokens, device="cpu"):
    logits = random(tokens, experts, dtype=dtype, device=device).requires_grad_()
    exact = logits.detach().double().requires_grad_()
    scores, chosen = balance_scores(logits, top_k, score)
    parts = exact.softmax(1) if score == "softmax" else exact.sigmoid()
    expected = parts / parts.sum(1, keepdim=True)
    assert scores.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert error(scores, expected) <= 1e-6
    right = expected_choice(expected.detach().cpu(), top_k, 1, 1).to(device)
    assert int((right != chosen).any(1).sum()) <= tokens // 1000

    # far from equal: equal counts give no gradient, only rounding
    count = torch.arange(experts, device=device) * tokens // experts
    for counts in (count, count.float()):
        loss = balance_loss(scores, counts, 0.01)
        exact_loss = (expected * counts).sum() * 0.01
        assert error(loss, exact_loss) <= 1e-6
        (ours,) = torch.autograd.grad(loss, logits, retain_graph=True)
        (theirs,) = torch.autograd.grad(exact_loss, exact, retain_graph=True)
        assert error(ours, theirs) <= bound(dtype)
    return scores, chosen, loss, ours


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_route(rule, score):
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        check(rule, score, dtype, tokens=23)


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
def test_balance(score):
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        check_balance(40, 3, score, dtype, tokens=19)


@pytest.mark.parametrize("score", SCORES)
def test_of_equal_scores_the_lower_experts_are_chosen(score):
    check_ties(score)


def check_ties(score, device="cpu"):
    logits = torch.randint(-1, 2, (50, 16), generator=torch.Generator().manual_seed(0)).float()
    for groups, kept in ((1, 1), (4, 2)):
        given = logits.to(device)
        chosen = route(given, 4, score=score, num_groups=groups, group_top_k=kept).map_TE.cpu()
        expected = expected_choice(scores_of(logits, score), 4, groups, kept)
        assert torch.equal(chosen, expected)


def test_no_tokens_and_extreme_logits():
    check_edges()


def check_edges(device="cpu"):
    for score in SCORES:
        probs, chosen = route(torch.zeros(0, 8, device=device), 2, score=score)
        assert probs.shape == chosen.shape == (0, 8)
        probs, chosen = route(torch.full((3, 8), -1e4, device=device), 2, score=score)
        assert probs.isfinite().all()
        assert chosen.sum(1).tolist() == [2, 2, 2]
    nothing, counts = torch.zeros(0, 8, device=device), torch.zeros(8, device=device)
    assert float(balance_loss(nothing, counts, 1.0)) == 0.0
    with torch.no_grad():  # columns, and every second row
        wide = random(20, 16, 2, device=device)[::2, :, 1]
        assert torch.equal(route(wide, 3).probs_TE, route(wide.contiguous(), 3).probs_TE)
        one, rule = random(1, 16, device=device).expand(10, -1), (3, SCORES.index("softmax"), 1.0)
        chosen, backward = route(wide, 3).map_TE, torch.ops.trivium.moe_route_backward
        for grad in (wide, one):
            expected = backward(grad.contiguous(), wide.contiguous(), chosen, *rule)
            assert torch.equal(backward(grad, wide, chosen, *rule), expected)
        scores = balance_scores(wide, 3, "sigmoid").probs_TE
        assert torch.equal(scores, balance_scores(wide.contiguous(), 3, "sigmoid").probs_TE)


def test_numbers_that_do_not_fit_are_refused():
    logits = torch.zeros(2, 8)
    with pytest.raises(ValueError, match="top_k 9"):
        route(logits, 9)
    with pytest.raises(ValueError, match="equal groups"):
        route(logits, 2, num_groups=3)
    with pytest.raises(ValueError, match="exceeds the 2 experts"):
        route(logits, 3, num_groups=4, group_top_k=1)
    with pytest.raises(ValueError, match="sigmoid"):
        route(logits, 2, bias_E=torch.zeros(8))


def test_gradcheck():
    x = random(5, 16, dtype=torch.float64).requires_grad_()
    for score, (groups, kept) in itertools.product(SCORES, ((1, 1), (4, 2))):
        rule = {"score": score, "num_groups": groups, "group_top_k": kept, "scale": 2.5}
        assert torch.autograd.gradcheck(lambda x, rule=rule: route(x, 4, **rule)[0], x)
    for score in ("softmax", "sigmoid"):
        assert torch.autograd.gradcheck(lambda x, s=score: balance_scores(x, 4, s)[0], x)
    assert torch.autograd.gradcheck(lambda x: balance_loss(x, torch.arange(16), 0.3), x)


def test_opcheck():
    ops, opcheck = torch.ops.trivium, torch.library.opcheck
    logits, chosen = random(5, 16).requires_grad_(), random(5, 16) > 9
    chosen[:, :4] = True
    plain = logits.detach()
    for score in range(3):
        opcheck(ops.moe_route, (logits, None, 4, 4, 2, score, 2.5))
        opcheck(ops.moe_route_backward, (plain, plain, chosen, 4, score, 2.5))
    opcheck(ops.moe_route, (logits, random(16), 4, 1, 1, 2, 1.0))
    for score in (0, 2):
        opcheck(ops.moe_balance_scores, (logits, 4, score))
        opcheck(ops.moe_balance_scores_backward, (plain, plain, score))
    opcheck(ops.moe_balance_loss, (logits, torch.arange(16), 0.3))


# --- In megatron-core's place ---------------------------------------------------------------------


@pytest.mark.parametrize("score", SCORES)
@distributed(1)
def test_equals_megatron_unfused(score):
    from megatron.core.transformer.moe import moe_utils

    from trivium.engine.model import moe_hooks

    moe_hooks.install()
    for experts, top_k, groups, kept, scale in RULES:
        logits = random(29, experts)
        bias = random(experts, seed=2, scale=0.05) if score == "sigmoid" else None
        answers = []
        for fused in (True, False):
            leaf = logits.clone().requires_grad_()
            probs, chosen = moe_utils.topk_routing_with_score_function(
                leaf,
                top_k,
                use_pre_softmax=score == "pre_softmax",
                num_groups=groups if groups > 1 else None,
                group_topk=kept if groups > 1 else None,
                scaling_factor=scale if scale != 1.0 else None,
                score_function="sigmoid" if score == "sigmoid" else "softmax",
                expert_bias=bias,
                fused=fused,
            )
            (probs * random(29, experts, seed=3)).sum().backward()
            answers.append((probs.detach(), chosen, leaf.grad))
        ours, theirs = answers
        assert torch.equal(ours[1], theirs[1])
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
@distributed(1)
def test_balancing_loss_equals_megatron_unfused(score):
    from megatron.core.transformer.moe import moe_utils

    from trivium.engine.model import moe_hooks

    moe_hooks.install()
    logits = random(30, 8)
    padding = random(30) > 1
    sequences = 2  # of one batch, told apart in the columns
    for masked, total in ((None, 30), (padding, (~padding).sum())):
        answers = []
        for fused in (True, False):
            leaf = logits.clone().requires_grad_()
            chosen, scores = moe_utils.compute_routing_scores_for_aux_loss(
                leaf, 2, score, fused=fused, padding_mask=masked
            )
            losses = [
                moe_utils.switch_load_balancing_loss_func(
                    scores.reshape(30 // batch, -1),
                    chosen.reshape(30 // batch, -1).sum(0),
                    total,
                    2,
                    8,
                    0.01,
                    fused=fused,
                )
                for batch in (1, sequences)
            ]
            sum(losses).backward()
            answers.append((scores.detach(), chosen, *losses, leaf.grad))
        for one, other in zip(*answers, strict=True):
            torch.testing.assert_close(one, other)


# --- The rows, run on the host --------------------------------------------------------------------

HOST = """
#include "cuda_on_host.h"
#include "router_row.h"
using namespace trivium;
using namespace trivium::router;

struct Warp {
  static constexpr int count = 32;
  int lane() const { return threadIdx.x & 31; }
  uint32_t max(uint32_t x) const { return __reduce_max_sync(~0u, x); }
  uint32_t min(uint32_t x) const { return __reduce_min_sync(~0u, x); }
  uint32_t bits_or(uint32_t x) const { return __reduce_or_sync(~0u, x); }
  float sum(float x) const { return warp_reduce<Sum>(x); }
  float largest(float x) const { return warp_reduce<Max>(x); }
};

template <int ITEMS>
void run_token(const float* logits, const float* bias, const float* grad, Rule rule, float* probs,
               uint8_t* map, float* grad_logits, float* scores, uint8_t* best, float* grad_scores) {
  const Warp warp;
  float x[ITEMS], y[ITEMS], s[ITEMS], z[ITEMS], b[ITEMS], g[ITEMS];
  bool chosen[ITEMS], top[ITEMS];
  for (int i = 0; i < ITEMS; ++i) {
    const int e = expert_of(warp, i);
    x[i] = y[i] = s[i] = z[i] = e < rule.experts ? logits[e] : -INFINITY;
    b[i] = bias && e < rule.experts ? bias[e] : 0.0f;
    g[i] = e < rule.experts ? grad[e] : 0.0f;
  }
  route(warp, x, b, chosen, rule);
  route_backward(warp, y, g, chosen, rule);
  balance_scores(warp, s, top, rule);
  balance_backward(warp, z, g, rule);
  for (int i = 0; i < ITEMS; ++i) {
    const int e = expert_of(warp, i);
    if (e >= rule.experts) continue;
    probs[e] = x[i];
    map[e] = chosen[i];
    grad_logits[e] = y[i];
    scores[e] = s[i];
    best[e] = top[i];
    grad_scores[e] = z[i];
  }
}

extern "C" void run(int tokens, int experts, int top_k, int groups, int group_top_k, int score,
                    float scale, const float* logits, const float* bias, const float* grad,
                    float* probs, uint8_t* map, float* grad_logits, float* scores, uint8_t* best,
                    float* grad_scores) {
  const Rule rule{experts, top_k, groups, group_top_k, top_k / group_top_k, experts / groups,
                  score, scale};
  launch(tokens, 32, [&] {
    const int64_t at = int64_t(blockIdx.x) * experts;
    auto token = [&]<int ITEMS>() {
      run_token<ITEMS>(logits + at, bias, grad + at, rule, probs + at, map + at, grad_logits + at,
                       scores + at, best + at, grad_scores + at);
    };
    if (experts <= 32)
      token.template operator()<1>();
    else if (experts <= 128)
      token.template operator()<4>();
    else
      token.template operator()<8>();
  });
}
"""


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    library = compile_on_host(HOST, tmp_path_factory.mktemp("router"))
    library.run.restype = None
    return library


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_rows_on_the_host_equal_the_reference(host, rule, score):
    experts, top_k, groups, kept, scale = rule
    bias = random(experts, seed=2, scale=0.05) if score == "sigmoid" else None
    ties = torch.randint(-1, 2, (5, experts), generator=torch.Generator().manual_seed(4)).float()
    logits = torch.cat([random(5, experts), ties])
    grad = random(10, experts, seed=3)
    leaf = logits.clone().requires_grad_()
    probs, chosen = route(
        leaf, top_k, score=score, bias_E=bias, num_groups=groups, group_top_k=kept, scale=scale
    )
    scores, best = balance_scores(leaf, top_k, score)
    grads = [torch.autograd.grad(one, leaf, grad)[0] for one in (probs, scores)]
    expected = (probs, chosen, grads[0], scores, best, grads[1])
    answers = [torch.full_like(one, 77) for one in expected]
    host.run(
        10, experts, top_k, groups, kept, SCORES.index(score), ctypes.c_float(scale),
        *map(pointer, (logits, bias, grad, *answers)),
    )  # fmt: skip
    if score == "pre_softmax":  # the balancing loss knows two kinds of scores
        expected, answers = expected[:3], answers[:3]
    assert torch.equal(answers[1], chosen)
    for ours, theirs in zip(answers, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=1e-6)


# --- On a GPU -------------------------------------------------------------------------------------


def thrice(function):
    """`function` three times, over freed memory full of NaN: the same bit for bit."""
    runs = []
    for _ in range(3):
        held = [torch.full((1 << size,), torch.nan, device="cuda") for size in range(4, 22)]
        del held
        runs.append([one.detach().clone() for one in function()])
    for again in runs[1:]:
        assert all(map(torch.equal, runs[0], again))


@pytest.mark.gpu
@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_route_kernel(dtype, score):
    assert library.load() is None
    for rule in [*RULES, (512, 10, 1, 1, 1.0), (160, 6, 8, 3, 16.0), (384, 8, 1, 1, 2.827)]:
        for tokens in (1, 1003):
            thrice(lambda r=rule, t=tokens: check(r, score, dtype, t, device="cuda"))


@pytest.mark.gpu
@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_balance_kernel(dtype, score):
    assert library.load() is None
    for experts, top_k in ((8, 2), (70, 6), (256, 8), (512, 10)):
        thrice(lambda e=experts, k=top_k: check_balance(e, k, score, dtype, 1003, device="cuda"))


@pytest.mark.gpu
@pytest.mark.parametrize("score", SCORES)
def test_kernel_on_ties_and_edges(score):
    assert library.load() is None
    check_ties(score, "cuda")
    check_edges("cuda")
