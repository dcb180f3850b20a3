"""MoE routing and its balancing loss: ours, torch eager and compiled, megatron-core unfused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tools.benchmarks.kernel_case import Case
from trivium.kernels.router import SCORES, SIGMOID, balance_loss, balance_scores, route

Call = Callable[..., Any]
TARGET = "<= 25 us at 8192 x 256"
TOKENS = 8192


def cases(tiny: bool) -> list[Case]:
    """DeepSeek-V3's routing in groups, forward and backward, Mixtral's, and a balancing loss."""
    T, E = (128, 64) if tiny else (TOKENS, 256)
    deepseek: dict[str, Any] = {"score": "sigmoid", "num_groups": 8, "group_top_k": 4, "scale": 2.5}
    dense = T * E * (4 + 4 + 1)  # logits, weights, map

    def with_bias() -> tuple[torch.Tensor, ...]:
        return _random(T, E), _random(E) * 0.01

    def for_backward() -> tuple[torch.Tensor, ...]:
        logits, bias = with_bias()
        return logits, route(logits, 8, bias_E=bias, **deepseek).map_TE, _random(T, E)

    return [
        Case(
            name=f"moe route forward {T} x {E} sigmoid, 8 of 4 of 8 groups",
            inputs=with_bias,
            contestants={
                "ours": lambda logits, bias: route(logits, 8, bias_E=bias, **deepseek),
                **_plain(lambda logits, bias: _route(logits, bias, 8, 8, 4, 2.5)),
                **_megatron(8, 8, 4, 2.5, "sigmoid"),
            },
            bytes=dense,
            target=TARGET,
        ),
        Case(
            name=f"moe route backward {T} x {E} sigmoid",
            inputs=for_backward,
            contestants={
                "ours": lambda logits, chosen, grad: torch.ops.trivium.moe_route_backward(
                    grad, logits, chosen, 8, SIGMOID, 2.5
                ),
                **_plain(_route_backward),
            },
            bytes=T * E * (4 + 4 + 4 + 1),
            target=TARGET,
        ),
        Case(
            name=f"moe route forward {T} x {E} softmax, 8",
            inputs=lambda: (_random(T, E), None),
            contestants={
                "ours": lambda logits, bias: route(logits, 8),
                **_megatron(8, None, None, None, "softmax"),
            },
            bytes=dense,
            target=TARGET,
        ),
        Case(
            name=f"moe route forward {T} x 8 softmax, 2",
            inputs=lambda: (_random(T, 8), None),
            contestants={
                "ours": lambda logits, bias: route(logits, 2),
                **_megatron(2, None, None, None, "softmax"),
            },
            bytes=T * 8 * (4 + 4 + 1),
        ),
        Case(
            name=f"moe balancing loss forward + backward {T} x {E}",
            inputs=lambda: (_random(T, E).requires_grad_(),),
            contestants={"ours": _balance, **_megatron_balance(E)},
            bytes=T * E * (4 + 4 + 1 + 4 + 4 + 4),  # scores, map; loss; logits' gradient
        ),
    ]


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, device="cuda")


def _plain(function: Call) -> dict[str, Call]:
    return {"torch": function, "compile": torch.compile(function, dynamic=False)}


def _route(
    logits: torch.Tensor, bias: torch.Tensor, k: int, groups: int, kept: int, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sigmoid routing in groups, as its paper has it."""
    scores = logits.sigmoid()
    biased = (scores + bias).view(len(logits), groups, -1)
    best = biased.topk(k // kept, dim=-1).values.sum(-1).topk(kept, dim=-1).indices
    outside = torch.ones_like(biased[..., 0], dtype=torch.bool).scatter(1, best, False)
    index = biased.masked_fill(outside[..., None], -torch.inf).flatten(1).topk(k, dim=-1).indices
    weights = scores.gather(1, index)
    weights = weights / weights.sum(-1, keepdim=True) * scale
    chosen = torch.zeros_like(logits, dtype=torch.bool).scatter(1, index, True)
    return torch.zeros_like(logits).scatter(1, index, weights), chosen


def _route_backward(logits: torch.Tensor, chosen: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    scores = logits.sigmoid()
    masked = scores * chosen
    total = masked.sum(-1, keepdim=True)
    inner = (grad * masked).sum(-1, keepdim=True) / total
    return (grad - inner) / total * masked * (1 - scores) * 2.5


def _balance(logits: torch.Tensor) -> torch.Tensor:
    scores, chosen = balance_scores(logits, 8, SCORES[0])
    loss = balance_loss(scores, chosen.sum(0), 0.01)
    return torch.autograd.grad(loss, logits)[0]


def _megatron(
    k: int, groups: int | None, kept: int | None, scale: float | None, score: str
) -> dict[str, Call]:
    try:
        from megatron.core.transformer.moe.moe_utils import topk_routing_with_score_function
    except ImportError:
        return {}

    def routed(logits: torch.Tensor, bias: torch.Tensor | None) -> Any:
        return topk_routing_with_score_function(
            logits,
            k,
            num_groups=groups,
            group_topk=kept,
            scaling_factor=scale,
            score_function=score,
            expert_bias=bias,
        )

    return {"megatron": routed}


def _megatron_balance(experts: int) -> dict[str, Call]:
    try:
        from megatron.core.transformer.moe import moe_utils
    except ImportError:
        return {}

    def balance(logits: torch.Tensor) -> torch.Tensor:
        chosen, scores = moe_utils.compute_routing_scores_for_aux_loss(logits, 8, "softmax")
        loss = moe_utils.switch_load_balancing_loss_func(
            scores, chosen.sum(dim=0), len(logits), 8, experts, 0.01
        )
        return torch.autograd.grad(loss, logits)[0]

    return {"megatron": balance}
