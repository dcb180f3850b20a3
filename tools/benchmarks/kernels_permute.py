"""MoE permutation there and back, and chunks reordered: ours, torch, megatron-core unfused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tools.benchmarks.kernel_case import Case
from trivium.kernels.permute import permute, sort_chunks, unpermute

Call = Callable[..., Any]
TARGET = ">= 80 % of copy"


def cases(tiny: bool) -> list[Case]:
    """DeepSeek-V3's and Mixtral's tokens to their experts and back, and between 4 ranks."""
    deepseek, mixtral = (4096, 256, 8, 7168), (8192, 8, 2, 4096)
    if tiny:
        deepseek, mixtral = (128, 32, 8, 512), (128, 8, 2, 256)
    return [
        _permute("DeepSeek-V3", *deepseek),
        _unpermute("DeepSeek-V3", *deepseek),
        _backward("DeepSeek-V3", *deepseek),
        _permute("Mixtral", *mixtral),
        _unpermute("Mixtral", *mixtral),
        _chunks(*((512, 16, 256) if tiny else (16384, 64, 7168))),
    ]


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


def _routed(tokens: int, experts: int, top_k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A bool map and weights, both [tokens, experts]."""
    scores = torch.rand(tokens, experts, device="cuda")
    chosen = torch.zeros_like(scores, dtype=torch.bool)
    chosen.scatter_(1, scores.topk(top_k, dim=1).indices, True)
    return chosen, scores * chosen


def _permute(of: str, tokens: int, experts: int, top_k: int, hidden: int) -> Case:
    rows = tokens * top_k

    def plain(x: torch.Tensor, chosen: torch.Tensor, probs: torch.Tensor) -> Any:
        expert_of, token_of = chosen.t().nonzero(as_tuple=True)
        return x.index_select(0, token_of), probs[token_of, expert_of]

    return Case(
        name=f"moe permute {of} {tokens} x {hidden}, {top_k} of {experts} bf16",
        inputs=lambda: (_random(tokens, hidden), *_routed(tokens, experts, top_k)),
        contestants={
            "ours": lambda x, chosen, probs: permute(x, chosen, probs, rows),
            "torch": plain,
            **_megatron_permute(rows),
        },
        bytes=2 * hidden * (tokens + rows) + tokens * experts + 8 * rows,
        target=TARGET,
    )


def _unpermute(of: str, tokens: int, experts: int, top_k: int, hidden: int) -> Case:
    rows = tokens * top_k

    def inputs() -> tuple[torch.Tensor, ...]:
        chosen, _ = _routed(tokens, experts, top_k)
        row_map = permute(_random(tokens, 8), chosen, None, rows).row_map
        return _random(rows, hidden), row_map, chosen.t().nonzero()[:, 1].contiguous(), chosen

    def plain(x: torch.Tensor, row_map: torch.Tensor, token_of: torch.Tensor, _: Any) -> Any:
        return x.new_zeros(tokens, hidden).index_add_(0, token_of, x)

    return Case(
        name=f"moe unpermute {of} {tokens} x {hidden}, {top_k} of {experts} bf16",
        inputs=inputs,
        contestants={
            "ours": lambda x, row_map, token_of, chosen: unpermute(x, row_map, tokens),
            "torch": plain,
            **_megatron_unpermute(tokens, hidden),
        },
        bytes=2 * hidden * (tokens + rows),
        target=TARGET,
    )


def _backward(of: str, tokens: int, experts: int, top_k: int, hidden: int) -> Case:
    """The gradient of permute, weights included."""
    rows = tokens * top_k

    def inputs() -> tuple[torch.Tensor, ...]:
        chosen, _ = _routed(tokens, experts, top_k)
        row_map = permute(_random(tokens, 8), chosen, None, rows).row_map
        return _random(rows, hidden), torch.rand(rows, device="cuda"), row_map

    return Case(
        name=f"moe permute backward {of} {tokens} x {hidden}, {top_k} of {experts} bf16",
        inputs=inputs,
        contestants={
            "ours": lambda grad, by_probs, row_map: torch.ops.trivium.moe_permute_backward(
                grad, by_probs, row_map, tokens, experts
            )
        },
        bytes=2 * hidden * (tokens + rows) + 4 * tokens * experts,
        target=TARGET,
    )


def _chunks(rows: int, chunks: int, hidden: int) -> Case:
    order = torch.arange(chunks).view(4, -1).t().flatten()  # from ranks to experts

    def inputs() -> tuple[torch.Tensor, ...]:
        cuts = torch.randint(0, rows, (chunks - 1,)).sort().values
        ends = torch.tensor([0, *cuts.tolist(), rows])
        return _random(rows, hidden), torch.rand(rows, device="cuda"), ends.diff().cuda()

    order_there = order.cuda() if torch.cuda.is_available() else order

    def plain(x: torch.Tensor, probs: torch.Tensor, sizes: torch.Tensor) -> Any:
        cut = sizes.tolist()
        parts, weights = x.split(cut), probs.split(cut)
        return torch.cat([parts[i] for i in order]), torch.cat([weights[i] for i in order])

    return Case(
        name=f"moe sort chunks {rows} x {hidden}, {chunks} bf16",
        inputs=inputs,
        contestants={
            "ours": lambda x, probs, sizes: sort_chunks(x, sizes, order_there, probs),
            "torch": plain,
        },
        bytes=2 * 2 * hidden * rows,
        target=TARGET,
    )


def _megatron_permute(rows: int) -> dict[str, Call]:
    try:
        from megatron.core.transformer.moe import moe_utils
    except ImportError:
        return {}
    return {
        "megatron": lambda x, chosen, probs: moe_utils.permute(
            x, chosen, probs=probs, num_out_tokens=rows
        )
    }


def _megatron_unpermute(tokens: int, hidden: int) -> dict[str, Call]:
    try:
        from megatron.core.transformer.moe import moe_utils
    except ImportError:
        return {}
    shape = torch.Size((tokens, hidden))
    return {
        "megatron": lambda x, row_map, token_of, chosen: moe_utils.unpermute(
            x, token_of, shape, routing_map=chosen
        )
    }
