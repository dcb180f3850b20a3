"""Our MoE kernels under the names where megatron-core looks for Transformer Engine's.

Each function has the interface of the one it stands in for, as far as megatron-core uses it. What
`moe_router_fusion` and `moe_permute_fusion` switch on is then ours, on every device.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from megatron.core.transformer.moe import moe_utils
from torch.utils.weak import WeakIdKeyDictionary

from trivium.kernels import permute as rows
from trivium.kernels import router
from trivium.kernels.registry import Operator

ROUTING = (
    "fused_topk_with_score_function",
    "fused_compute_score_for_moe_aux_loss",
    "fused_moe_aux_loss",
)
# a row map is known to its own maker only: these come together or not at all
PERMUTING = (
    "fused_permute",
    "fused_permute_with_probs",
    "fused_unpermute",
    "fused_sort_chunks_by_index",
    "fused_sort_chunks_by_index_with_probs",
)


def install() -> None:
    """Put the functions below into moe_utils, unless Transformer Engine's are there.

    There `HAVE_TE` guards nothing but these names, each of which is tested for None as well.
    """
    for names in (ROUTING, PERMUTING):
        if any(getattr(moe_utils, name, None) is None for name in names):
            for name in names:
                setattr(moe_utils, name, globals()[name])
    moe_utils.HAVE_TE = True


def fusions() -> dict[str, bool]:
    """TransformerConfig's switches: on where a kernel runs. On a CPU, and in plain torch, its own
    operations are quicker than the references of ours (1.1 to 2.2 times, forward and backward)."""
    return {
        "moe_router_fusion": _has_kernel(router.ROUTER, ROUTING),
        "moe_permute_fusion": _has_kernel(rows.PERMUTE, PERMUTING),
    }


def _has_kernel(operator: Operator, names: tuple[str, ...]) -> bool:
    ours = getattr(moe_utils, names[0]) is globals()[names[0]]
    return dist.get_backend() != "gloo" and (operator.path == "cuda" or not ours)


def fused_topk_with_score_function(
    logits: torch.Tensor,
    topk: int,
    use_pre_softmax: bool,
    num_groups: int | None,
    group_topk: int | None,
    scaling_factor: float | None,
    score_function: str,
    expert_bias: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights [tokens, experts], 0 where not chosen, and the bool map of the choice."""
    limited = group_topk and num_groups
    return router.route(
        logits,
        topk,
        score=_score(score_function, use_pre_softmax),
        bias_E=expert_bias,
        num_groups=num_groups if limited and num_groups else 1,
        group_top_k=group_topk if limited and group_topk else 1,
        scale=scaling_factor or 1.0,
    )


def fused_compute_score_for_moe_aux_loss(
    logits: torch.Tensor, topk: int, score_function: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """The bool map of the top k, and scores that sum to 1 over the experts."""
    scores_TE, map_TE = router.balance_scores(logits, topk, _score(score_function, False))
    return map_TE, scores_TE


def fused_moe_aux_loss(
    probs: torch.Tensor,
    tokens_per_expert: torch.Tensor,
    total_num_tokens: int | torch.Tensor,
    topk: int,
    num_experts: int,
    coeff: float,
) -> torch.Tensor:
    """The balancing loss, times `coeff`; the number of tokens may be on the device."""
    factor = num_experts * coeff / topk
    if isinstance(total_num_tokens, torch.Tensor):
        return router.balance_loss(probs, tokens_per_expert, factor) / total_num_tokens.square()
    return router.balance_loss(probs, tokens_per_expert, factor / total_num_tokens**2)


def fused_permute(
    inp: torch.Tensor, routing_map: torch.Tensor, num_out_tokens: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows in the order of experts, and the row map."""
    permuted = rows.permute(inp, routing_map, None, _count(num_out_tokens))
    return permuted.rows_NH, permuted.row_map


def fused_permute_with_probs(
    inp: torch.Tensor,
    probs: torch.Tensor,
    routing_map: torch.Tensor,
    num_out_tokens: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """Rows in the order of experts, their weights, and the row map."""
    return rows.permute(inp, routing_map, probs, _count(num_out_tokens))


def fused_unpermute(
    inp: torch.Tensor,
    row_id_map: torch.Tensor,
    merging_probs: torch.Tensor | None = None,
    restore_shape: torch.Size | None = None,
) -> torch.Tensor:
    """Each token's rows summed, times their weights if there are any."""
    assert restore_shape is not None
    return rows.unpermute(inp, row_id_map, restore_shape[0], merging_probs)


def fused_sort_chunks_by_index(
    inp: torch.Tensor, split_sizes: torch.Tensor, sorted_index: torch.Tensor
) -> torch.Tensor:
    """Chunks of rows in the order of `sorted_index`."""
    if _as_it_is(sorted_index):
        return inp
    return rows.sort_chunks(inp, split_sizes, sorted_index)[0]


def fused_sort_chunks_by_index_with_probs(
    inp: torch.Tensor, probs: torch.Tensor, split_sizes: torch.Tensor, sorted_index: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Chunks of rows, and of their weights, in the order of `sorted_index`."""
    if _as_it_is(sorted_index):
        return inp, probs
    return rows.sort_chunks(inp, split_sizes, sorted_index, probs)


_identities: Any = WeakIdKeyDictionary()


def _as_it_is(order: torch.Tensor) -> bool:
    """Is it the order that is there already, as on one rank? A dispatcher has one tensor for all
    its calls, so the device is waited for once."""
    if order not in _identities:
        _identities[order] = torch.equal(order, torch.arange(len(order), device=order.device))
    return bool(_identities[order])


def _score(function: str, before_choice: bool) -> router.Score:
    if function == "sigmoid":
        return "sigmoid"
    return "pre_softmax" if before_choice else "softmax"


def _count(num_out_tokens: int | torch.Tensor | None) -> int | None:
    """A number, without waiting for the device: megatron-core gives a tensor on the host."""
    return None if num_out_tokens is None else int(num_out_tokens)
