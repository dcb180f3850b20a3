"""MoE routing: the experts of each token, their weights, and what the balancing loss needs.

Scores are a softmax or sigmoids of the logits; the top k of them are chosen, within the best groups
of experts if there are groups (DeepSeek-V3, arXiv 2412.19437, section 2.1.2), with a bias that
weighs in the choice only (arXiv 2408.15664). Of equal scores the lower expert is chosen, so the
choice is the same on every device and in every run.

Shapes: T tokens, E experts, k chosen of them. Statistics are fp32, for fp64 logits fp64.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch

from trivium.kernels.registry import Operator

ROUTER = Operator("moe_router", "MoE top-k with groups and bias, its weights, balancing loss")

# softmax of the chosen logits; softmax of all, then choose; sigmoids, divided by those chosen
Score = Literal["softmax", "pre_softmax", "sigmoid"]
SCORES: tuple[Score, ...] = ("softmax", "pre_softmax", "sigmoid")
SOFTMAX, PRE_SOFTMAX, SIGMOID = range(3)
MOST_EXPERTS, MOST_GROUPS = 512, 32  # of the CUDA kernel, which keeps a token's row in registers
TINY = 1e-20  # added to the sum of the chosen sigmoids


class Routing(NamedTuple):
    """probs_TE: weight of each chosen expert, else 0. map_TE: bool, which are chosen."""

    probs_TE: torch.Tensor
    map_TE: torch.Tensor


def route(
    logits_TE: torch.Tensor,
    top_k: int,
    *,
    score: Score = "softmax",
    bias_E: torch.Tensor | None = None,
    num_groups: int = 1,
    group_top_k: int = 1,
    scale: float = 1.0,
) -> Routing:
    """The `top_k` experts of each token and their weights, which are differentiable.

    With `num_groups` > 1 a group of neighbouring experts scores the sum of its best
    `top_k // group_top_k`, and experts come from the best `group_top_k` groups. `bias_E` is added
    to the scores for the choice, not to the weights. Weights are multiplied by `scale`.
    Raises ValueError if the numbers do not fit each other.
    """
    _check(logits_TE.shape[1], top_k, num_groups, group_top_k)
    if bias_E is not None and score != "sigmoid":
        raise ValueError(f"an expert bias goes with sigmoid scores, not with {score!r}")
    if bias_E is not None:
        bias_E = bias_E.to(torch.float64 if logits_TE.dtype == torch.float64 else torch.float32)
    method = SCORES.index(score)
    probs_TE, map_TE = torch.ops.trivium.moe_route(
        logits_TE, bias_E, top_k, num_groups, group_top_k, method, scale
    )
    return Routing(probs_TE, map_TE)


def balance_scores(logits_TE: torch.Tensor, top_k: int, score: Score) -> Routing:
    """What the balancing loss is of: scores that sum to 1 over all experts, in fp32, and the top k
    of them without bias or groups. The scores are differentiable."""
    _check(logits_TE.shape[1], top_k, 1, 1)
    method = SIGMOID if score == "sigmoid" else SOFTMAX
    return Routing(*torch.ops.trivium.moe_balance_scores(logits_TE, top_k, method))


def balance_loss(
    scores_TE: torch.Tensor, tokens_per_expert_E: torch.Tensor, factor: float
) -> torch.Tensor:
    """factor * sum over tokens and experts of scores * tokens_per_expert (Switch Transformer,
    arXiv 2101.03961, equation 4). A scalar in fp32, differentiable in the scores."""
    loss: torch.Tensor = torch.ops.trivium.moe_balance_loss(scores_TE, tokens_per_expert_E, factor)
    return loss


def _check(experts: int, top_k: int, num_groups: int, group_top_k: int) -> None:
    if not 1 <= top_k <= experts:
        raise ValueError(f"top_k {top_k} of {experts} experts: must be from 1 to {experts}")
    if num_groups == 1:
        return
    if experts % num_groups:
        raise ValueError(f"{experts} experts cannot be split into {num_groups} equal groups")
    if not 1 <= group_top_k <= num_groups:
        raise ValueError(f"group_top_k {group_top_k} of {num_groups} groups")
    size = experts // num_groups
    if top_k > group_top_k * size or top_k // group_top_k > size:
        raise ValueError(
            f"top_k {top_k} exceeds the {group_top_k * size} experts of {group_top_k} groups"
        )


# --- Choice and weights ---------------------------------------------------------------------------


def _statistics(x: torch.Tensor) -> torch.Tensor:
    """In fp32, or fp64 as it is; rows end to end."""
    x = x.contiguous()
    return x if x.dtype == torch.float64 else x.float()


def _best(scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k largest of each row and where they are; of equal ones the first."""
    values, index = scores.topk(k, dim=1)
    chosen = scores >= values[:, -1:]
    if scores.is_cuda or int(chosen.sum()) != index.numel():  # a tie at the edge
        index = scores.sort(dim=1, descending=True, stable=True).indices[:, :k]
        values = scores.gather(1, index)
    return values, index


def _choose(scores: torch.Tensor, k: int, groups: int, group_k: int) -> torch.Tensor:
    """The experts of each token [T, k], by score."""
    tokens, experts = scores.shape
    if groups > 1:
        grouped = scores.view(tokens * groups, experts // groups)
        strength = grouped.topk(k // group_k, dim=1).values.sum(1).view(tokens, groups)
        best = _best(strength, group_k)[1]
        outside = torch.ones_like(strength, dtype=torch.bool).scatter_(1, best, False)
        scores = scores.view(tokens, groups, -1).masked_fill(outside.unsqueeze(-1), -torch.inf)
        scores = scores.view(tokens, experts)
    return _best(scores, k)[1]


@ROUTER.define(
    "moe_route(Tensor logits, Tensor? bias, int top_k, int groups, int group_top_k, int score, "
    "float scale) -> (Tensor, Tensor)"
)
def _route(
    logits: torch.Tensor,
    bias: torch.Tensor | None,
    top_k: int,
    groups: int,
    group_top_k: int,
    score: int,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    x = _statistics(logits)
    if score == SOFTMAX:
        index = _choose(x, top_k, groups, group_top_k)
        weights = x.gather(1, index).softmax(1)
    elif score == PRE_SOFTMAX:
        scores = x.softmax(1)
        index = _choose(scores, top_k, groups, group_top_k)
        weights = scores.gather(1, index)
    else:
        scores = x.sigmoid()
        index = _choose(scores if bias is None else scores + bias, top_k, groups, group_top_k)
        weights = scores.gather(1, index)
        if top_k > 1:
            weights = weights / (weights.sum(1, keepdim=True) + TINY)
    if scale != 1.0:
        weights = weights * scale
    probs = torch.zeros_like(logits, memory_format=torch.contiguous_format)
    probs.scatter_(1, index, weights.to(logits.dtype))
    chosen = torch.zeros(logits.shape, dtype=torch.bool, device=logits.device)
    return probs, chosen.scatter_(1, index, True)


@ROUTER.fake("moe_route")
def _route_fake(
    logits: torch.Tensor, bias: torch.Tensor | None, *numbers: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    return logits.new_empty(logits.shape), logits.new_empty(logits.shape, dtype=torch.bool)


@ROUTER.define(
    "moe_route_backward(Tensor grad, Tensor logits, Tensor chosen, int top_k, int score, "
    "float scale) -> Tensor"
)
def _route_backward(
    grad: torch.Tensor,
    logits: torch.Tensor,
    chosen: torch.Tensor,
    top_k: int,
    score: int,
    scale: float,
) -> torch.Tensor:
    x, g = _statistics(logits), grad.to(torch.promote_types(grad.dtype, torch.float32))
    if score == PRE_SOFTMAX:
        s = x.softmax(1)
        gs = (g * chosen).mul_(s)
        dx = gs.sub_(s * gs.sum(1, keepdim=True))
    else:
        index = _columns(chosen, top_k)
        x, g = x.gather(1, index), g.gather(1, index)
        if score == SOFTMAX:
            p = x.softmax(1)
            dx = p * (g - (g * p).sum(1, keepdim=True))
        else:
            s = x.sigmoid()
            if top_k > 1:
                total = s.sum(1, keepdim=True) + TINY
                g = (g - (g * s).sum(1, keepdim=True) / total) / total
            dx = g * s * (1 - s)
        dx = torch.zeros_like(logits, dtype=dx.dtype).scatter_(1, index, dx)
    return (dx if scale == 1.0 else dx.mul_(scale)).to(logits.dtype).contiguous()


def _columns(chosen: torch.Tensor, top_k: int) -> torch.Tensor:
    """Where each row of `chosen` is true [T, k]."""
    if chosen.is_cuda:  # without waiting for it
        return chosen.to(torch.uint8).topk(top_k, dim=1).indices
    return chosen.nonzero()[:, 1].view(-1, top_k)


@ROUTER.fake("moe_route_backward")
def _route_backward_fake(grad: torch.Tensor, logits: torch.Tensor, *rest: Any) -> torch.Tensor:
    return logits.new_empty(logits.shape)


def _save_route(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    logits, _, ctx.top_k, _, _, ctx.score, ctx.scale = inputs
    ctx.save_for_backward(logits, output[1])
    ctx.set_materialize_grads(False)


def _route_gradient(ctx: Any, grad: torch.Tensor | None, _: Any) -> tuple[torch.Tensor | None, ...]:
    if grad is None:
        return (None,) * 7
    logits, chosen = ctx.saved_tensors
    dx = torch.ops.trivium.moe_route_backward(grad, logits, chosen, ctx.top_k, ctx.score, ctx.scale)
    return dx, None, None, None, None, None, None


ROUTER.autograd("moe_route", _route_gradient, _save_route)


# --- The balancing loss ---------------------------------------------------------------------------


@ROUTER.define("moe_balance_scores(Tensor logits, int top_k, int score) -> (Tensor, Tensor)")
def _balance_scores(
    logits: torch.Tensor, top_k: int, score: int
) -> tuple[torch.Tensor, torch.Tensor]:
    scores = _balanced(_statistics(logits), score)
    chosen = torch.zeros(logits.shape, dtype=torch.bool, device=logits.device)
    return scores, chosen.scatter_(1, _best(scores, top_k)[1], True)


def _balanced(x: torch.Tensor, score: int) -> torch.Tensor:
    if score == SOFTMAX:
        return x.softmax(1)
    s = x.sigmoid()
    return s / (s.sum(1, keepdim=True) + TINY)


@ROUTER.fake("moe_balance_scores")
def _balance_scores_fake(
    logits: torch.Tensor, top_k: int, score: int
) -> tuple[torch.Tensor, torch.Tensor]:
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    scores = logits.new_empty(logits.shape, dtype=dtype)
    return scores, logits.new_empty(logits.shape, dtype=torch.bool)


@ROUTER.define("moe_balance_scores_backward(Tensor grad, Tensor logits, int score) -> Tensor")
def _balance_scores_backward(grad: torch.Tensor, logits: torch.Tensor, score: int) -> torch.Tensor:
    x = _statistics(logits)
    if score == SOFTMAX:
        p = x.softmax(1)
        dx = p * (grad - (grad * p).sum(1, keepdim=True))
    else:
        s = x.sigmoid()
        total = s.sum(1, keepdim=True) + TINY
        dx = (grad - (grad * s).sum(1, keepdim=True) / total) / total * s * (1 - s)
    return dx.to(logits.dtype).contiguous()


@ROUTER.fake("moe_balance_scores_backward")
def _balance_scores_backward_fake(
    grad: torch.Tensor, logits: torch.Tensor, score: int
) -> torch.Tensor:
    return logits.new_empty(logits.shape)


def _save_balance_scores(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    logits, _, ctx.score = inputs
    ctx.save_for_backward(logits)
    ctx.set_materialize_grads(False)


def _balance_scores_gradient(
    ctx: Any, grad: torch.Tensor | None, _: Any
) -> tuple[torch.Tensor | None, None, None]:
    if grad is None:
        return None, None, None
    (logits,) = ctx.saved_tensors
    return torch.ops.trivium.moe_balance_scores_backward(grad, logits, ctx.score), None, None


ROUTER.autograd("moe_balance_scores", _balance_scores_gradient, _save_balance_scores)


@ROUTER.define("moe_balance_loss(Tensor scores, Tensor tokens_per_expert, float factor) -> Tensor")
def _balance_loss(
    scores: torch.Tensor, tokens_per_expert: torch.Tensor, factor: float
) -> torch.Tensor:
    x = _statistics(scores)
    return (x.sum(0) * tokens_per_expert.to(x.dtype)).sum() * factor


@ROUTER.fake("moe_balance_loss")
def _balance_loss_fake(
    scores: torch.Tensor, tokens_per_expert: torch.Tensor, factor: float
) -> torch.Tensor:
    dtype = torch.float64 if scores.dtype == torch.float64 else torch.float32
    return scores.new_empty((), dtype=dtype)


def _save_balance_loss(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    scores, tokens_per_expert, ctx.factor = inputs
    ctx.save_for_backward(tokens_per_expert)
    ctx.shape, ctx.dtype = scores.shape, scores.dtype


def _balance_loss_gradient(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
    (tokens_per_expert,) = ctx.saved_tensors
    row = tokens_per_expert.to(grad.dtype) * (grad * ctx.factor)
    return row.to(ctx.dtype).expand(ctx.shape), None, None


ROUTER.autograd("moe_balance_loss", _balance_loss_gradient, _save_balance_loss)
