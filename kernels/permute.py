"""MoE permutation: each token's row to its experts and back, and chunks of rows in another order.

Rows are in the order of experts, then tokens, so an expert finds its tokens side by side. `permute`
and `unpermute` are each other's gradient. A row map remembers the order in one int32 tensor: a
*pair* (row, expert) for each row, in the order of tokens, then experts; then T + 1 offsets, where
each token's pairs begin. Sums are fp32 (fp64 for fp64) in the order of experts, rounded once.

Shapes: T tokens, E experts, H hidden, N rows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from trivium.kernels.registry import Operator

PERMUTE = Operator("moe_permute", "MoE tokens to their experts and back, chunks reordered")


class Permuted(NamedTuple):
    """rows_NH: tokens by expert. probs_N: their weights, or None. row_map: for `unpermute`."""

    rows_NH: torch.Tensor
    probs_N: torch.Tensor | None
    row_map: torch.Tensor


def permute(
    tokens_TH: torch.Tensor,
    map_TE: torch.Tensor,
    probs_TE: torch.Tensor | None = None,
    num_rows: int | None = None,
) -> Permuted:
    """Copy each token to a row for each expert that the bool `map_TE` routes it to.

    num_rows: N, at least the number of pairs; rows past the last pair are zero. If None it is
    counted, which waits for the device. Fewer than there are pairs is an error: ValueError on a
    CPU, a device-side trap on CUDA. Differentiable in tokens and probs.
    """
    if num_rows is None:
        num_rows = int(map_TE.sum())
    rows_NH, probs_N, row_map = torch.ops.trivium.moe_permute(
        tokens_TH, probs_TE, map_TE.bool(), num_rows
    )
    return Permuted(rows_NH, None if probs_TE is None else probs_N, row_map)


def unpermute(
    rows_NH: torch.Tensor,
    row_map: torch.Tensor,
    num_tokens: int,
    probs_TE: torch.Tensor | None = None,
) -> torch.Tensor:
    """The sum [T, H] of each token's rows, each times its weight if `probs_TE` is given.

    Differentiable in rows and probs.
    """
    tokens_TH: torch.Tensor = torch.ops.trivium.moe_unpermute(
        rows_NH, probs_TE, row_map, num_tokens
    )
    return tokens_TH


def sort_chunks(
    rows_NH: torch.Tensor,
    sizes: torch.Tensor,
    order: torch.Tensor,
    probs_N: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Rows cut into chunks of `sizes` rows, and the chunks laid end to end in `order`; probs alike.

    sizes, order: integers [chunks], on any device; order is a permutation. Differentiable in rows
    and probs.
    """
    where = rows_NH.device
    sizes = sizes.to(where, torch.int64, non_blocking=True)
    order = order.to(where, torch.int64, non_blocking=True)
    sorted_NH, sorted_N, _ = torch.ops.trivium.moe_sort_chunks(rows_NH, probs_N, sizes, order)
    return sorted_NH, None if probs_N is None else sorted_N


# --- Tokens to rows -------------------------------------------------------------------------------


def _column(index: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """An index of rows for scatter_add, which knows that it is the same in each column."""
    return index.unsqueeze(1).expand(-1, like.shape[1])


def _pairs(row_map: torch.Tensor, num_rows: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Row, expert and token of each pair."""
    offsets = row_map[2 * num_rows :]
    rows, experts = row_map[: 2 * int(offsets[-1])].view(-1, 2).long().unbind(1)
    tokens = torch.arange(len(offsets) - 1, device=row_map.device)
    return rows, experts, tokens.repeat_interleave(offsets.diff())


@PERMUTE.define(
    "moe_permute(Tensor tokens, Tensor? probs, Tensor routing_map, int num_rows)"
    " -> (Tensor, Tensor, Tensor)"
)
def _permute(
    tokens: torch.Tensor, probs: torch.Tensor | None, routing_map: torch.Tensor, num_rows: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    expert_of, token_of = routing_map.t().nonzero(as_tuple=True)
    count = len(token_of)
    if count > num_rows:
        raise ValueError(f"moe_permute: {count} pairs of token and expert, num_rows is {num_rows}")
    by_token = token_of.argsort(stable=True)
    row_map = token_of.new_full((2 * num_rows + len(tokens) + 1,), -1, dtype=torch.int32)
    row_map[: 2 * count] = torch.stack([by_token, expert_of[by_token]], dim=1).view(-1)
    row_map[2 * num_rows] = 0
    row_map[2 * num_rows + 1 :] = routing_map.sum(1).cumsum(0)
    rest = num_rows - count
    rows = tokens.index_select(0, token_of)
    row_probs = tokens.new_empty(0) if probs is None else probs[token_of, expert_of]
    if rest:
        rows = torch.cat([rows, rows.new_zeros(rest, rows.shape[1])])
        if probs is not None:
            row_probs = torch.cat([row_probs, row_probs.new_zeros(rest)])
    return rows, row_probs, row_map


@PERMUTE.fake("moe_permute")
def _permute_fake(
    tokens: torch.Tensor, probs: torch.Tensor | None, routing_map: torch.Tensor, num_rows: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    row_probs = tokens.new_empty(0) if probs is None else probs.new_empty(num_rows)
    row_map = tokens.new_empty(2 * num_rows + tokens.shape[0] + 1, dtype=torch.int32)
    return tokens.new_empty(num_rows, tokens.shape[1]), row_probs, row_map


@PERMUTE.define(
    "moe_permute_backward(Tensor grad_rows, Tensor? grad_probs, Tensor row_map, int num_tokens, "
    "int num_experts) -> (Tensor, Tensor)"
)
def _permute_backward(
    grad_rows: torch.Tensor,
    grad_probs: torch.Tensor | None,
    row_map: torch.Tensor,
    num_tokens: int,
    num_experts: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    grad_tokens = _unpermute(grad_rows, None, row_map, num_tokens)
    if grad_probs is None:
        return grad_tokens, grad_rows.new_empty(0, 0)
    rows, experts, tokens = _pairs(row_map, len(grad_rows))
    spread = grad_probs.new_zeros(num_tokens, num_experts)
    spread[tokens, experts] = grad_probs[rows]
    return grad_tokens, spread


@PERMUTE.fake("moe_permute_backward")
def _permute_backward_fake(
    grad_rows: torch.Tensor,
    grad_probs: torch.Tensor | None,
    row_map: torch.Tensor,
    num_tokens: int,
    num_experts: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    spread = (
        grad_rows.new_empty(0, 0)
        if grad_probs is None
        else grad_probs.new_empty(num_tokens, num_experts)
    )
    return grad_rows.new_empty(num_tokens, grad_rows.shape[1]), spread


def _save_permute(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    tokens, probs, routing_map, _ = inputs
    ctx.save_for_backward(output[2])
    ctx.shape, ctx.num_experts, ctx.dtype = output[0].shape, routing_map.shape[1], tokens.dtype
    ctx.num_tokens, ctx.weighted = tokens.shape[0], probs is not None
    ctx.set_materialize_grads(False)


def _permute_gradient(
    ctx: Any, grad_rows: torch.Tensor | None, grad_probs: torch.Tensor | None, _: Any
) -> tuple[torch.Tensor | None, torch.Tensor | None, None, None]:
    (row_map,) = ctx.saved_tensors
    if grad_rows is None and grad_probs is None:
        return None, None, None, None
    if grad_rows is None:
        grad_rows = row_map.new_zeros((), dtype=ctx.dtype).expand(ctx.shape)
    grad_tokens, spread = torch.ops.trivium.moe_permute_backward(
        grad_rows, grad_probs if ctx.weighted else None, row_map, ctx.num_tokens, ctx.num_experts
    )
    return grad_tokens, spread if ctx.weighted and grad_probs is not None else None, None, None


PERMUTE.autograd("moe_permute", _permute_gradient, _save_permute)


# --- Rows to tokens -------------------------------------------------------------------------------


@PERMUTE.define(
    "moe_unpermute(Tensor rows, Tensor? probs, Tensor row_map, int num_tokens) -> Tensor"
)
def _unpermute(
    rows: torch.Tensor, probs: torch.Tensor | None, row_map: torch.Tensor, num_tokens: int
) -> torch.Tensor:
    row_of, expert_of, token_of = _pairs(row_map, len(rows))
    by_row = torch.empty_like(token_of).scatter_(0, row_of, token_of)  # as they lie in memory
    parts = rows[: len(by_row)]
    if rows.dtype != torch.float64:
        parts = parts.float()
    if probs is not None:
        weights = parts.new_empty(len(by_row))
        weights.scatter_(0, row_of, probs[token_of, expert_of].to(parts.dtype))
        parts = parts * weights.unsqueeze(1)
    sums = parts.new_zeros(num_tokens, rows.shape[1])
    if rows.is_cuda:  # scatter_add_ has no fixed order there
        sums.index_put_((by_row,), parts, accumulate=True)
    else:
        sums.scatter_add_(0, _column(by_row, parts), parts)
    return sums.to(rows.dtype)


@PERMUTE.fake("moe_unpermute")
def _unpermute_fake(
    rows: torch.Tensor, probs: torch.Tensor | None, row_map: torch.Tensor, num_tokens: int
) -> torch.Tensor:
    return rows.new_empty(num_tokens, rows.shape[1])


@PERMUTE.define(
    "moe_unpermute_backward(Tensor grad, Tensor? rows, Tensor? probs, Tensor row_map, "
    "int num_rows) -> (Tensor, Tensor)"
)
def _unpermute_backward(
    grad: torch.Tensor,
    rows: torch.Tensor | None,
    probs: torch.Tensor | None,
    row_map: torch.Tensor,
    num_rows: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    row_of, expert_of, token_of = _pairs(row_map, num_rows)
    by_row = torch.empty_like(token_of).scatter_(0, row_of, token_of)
    spread = grad.index_select(0, by_row)
    grad_probs = grad.new_empty((0, 0), dtype=torch.float32)
    if probs is not None:
        assert rows is not None
        parts, exact = spread, rows[: len(by_row)]
        if grad.dtype != torch.float64:
            parts, exact = parts.float(), exact.float()
        weights = parts.new_empty(len(by_row))
        weights.scatter_(0, row_of, probs[token_of, expert_of].to(parts.dtype))
        grad_probs = torch.zeros_like(probs, memory_format=torch.contiguous_format)
        dots = (parts * exact).sum(1)
        grad_probs[token_of, expert_of] = dots[row_of].to(probs.dtype)
        spread = (parts * weights.unsqueeze(1)).to(grad.dtype)
    if num_rows > len(by_row):
        spread = torch.cat([spread, spread.new_zeros(num_rows - len(by_row), grad.shape[1])])
    return spread, grad_probs


@PERMUTE.fake("moe_unpermute_backward")
def _unpermute_backward_fake(
    grad: torch.Tensor,
    rows: torch.Tensor | None,
    probs: torch.Tensor | None,
    row_map: torch.Tensor,
    num_rows: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    grad_probs = (
        grad.new_empty((0, 0), dtype=torch.float32)
        if probs is None
        else probs.new_empty(probs.shape)
    )
    return grad.new_empty(num_rows, grad.shape[1]), grad_probs


def _save_unpermute(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    rows, probs, row_map, _ = inputs
    ctx.weighted, ctx.num_rows = probs is not None, rows.shape[0]
    ctx.save_for_backward(row_map, *((rows, probs) if ctx.weighted else ()))


def _unpermute_gradient(
    ctx: Any, grad: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None, None, None]:
    row_map, *weighted = ctx.saved_tensors
    rows, probs = weighted or (None, None)
    grad_rows, grad_probs = torch.ops.trivium.moe_unpermute_backward(
        grad, rows, probs, row_map, ctx.num_rows
    )
    return grad_rows, grad_probs if ctx.weighted else None, None, None


PERMUTE.autograd("moe_unpermute", _unpermute_gradient, _save_unpermute)


# --- Chunks in another order ----------------------------------------------------------------------


@PERMUTE.define(
    "moe_sort_chunks(Tensor rows, Tensor? probs, Tensor sizes, Tensor order)"
    " -> (Tensor, Tensor, Tensor)"
)
def _sort_chunks(
    rows: torch.Tensor, probs: torch.Tensor | None, sizes: torch.Tensor, order: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    chunks, wanted = sizes.tolist(), order.tolist()
    if sum(chunks) != len(rows) or sorted(wanted) != list(range(len(chunks))):
        raise ValueError(
            f"moe_sort_chunks: {len(rows)} rows in {len(chunks)} chunks of {sum(chunks)}; the "
            "order must name each chunk once"
        )

    def laid(x: torch.Tensor) -> torch.Tensor:
        parts = x.split(chunks)
        return torch.cat([parts[i] for i in wanted])

    source = torch.arange(len(rows), dtype=torch.int32, device=rows.device)
    return laid(rows), rows.new_empty(0) if probs is None else laid(probs), laid(source)


@PERMUTE.fake("moe_sort_chunks")
def _sort_chunks_fake(
    rows: torch.Tensor, probs: torch.Tensor | None, sizes: torch.Tensor, order: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    sorted_probs = rows.new_empty(0) if probs is None else probs.new_empty(probs.shape)
    source = rows.new_empty(rows.shape[0], dtype=torch.int32)
    return rows.new_empty(rows.shape), sorted_probs, source


@PERMUTE.define(
    "moe_sort_chunks_backward(Tensor grad_rows, Tensor? grad_probs, Tensor source)"
    " -> (Tensor, Tensor)"
)
def _sort_chunks_backward(
    grad_rows: torch.Tensor, grad_probs: torch.Tensor | None, source: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    def returned(x: torch.Tensor) -> torch.Tensor:
        return x.new_empty(x.shape).index_copy_(0, source.long(), x)

    return returned(grad_rows), grad_rows.new_empty(0) if grad_probs is None else returned(
        grad_probs
    )


@PERMUTE.fake("moe_sort_chunks_backward")
def _sort_chunks_backward_fake(
    grad_rows: torch.Tensor, grad_probs: torch.Tensor | None, source: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    probs = grad_rows.new_empty(0) if grad_probs is None else grad_probs.new_empty(grad_probs.shape)
    return grad_rows.new_empty(grad_rows.shape), probs


def _save_sort_chunks(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    ctx.save_for_backward(output[2])
    ctx.shape, ctx.dtype, ctx.weighted = inputs[0].shape, inputs[0].dtype, inputs[1] is not None
    ctx.set_materialize_grads(False)


def _sort_chunks_gradient(
    ctx: Any, grad_rows: torch.Tensor | None, grad_probs: torch.Tensor | None, _: Any
) -> tuple[torch.Tensor | None, torch.Tensor | None, None, None]:
    (source,) = ctx.saved_tensors
    if grad_rows is None and grad_probs is None:
        return None, None, None, None
    if grad_rows is None:
        grad_rows = source.new_zeros((), dtype=ctx.dtype).expand(ctx.shape)
    rows, probs = torch.ops.trivium.moe_sort_chunks_backward(
        grad_rows, grad_probs if ctx.weighted else None, source
    )
    return rows, probs if ctx.weighted and grad_probs is not None else None, None, None


PERMUTE.autograd("moe_sort_chunks", _sort_chunks_gradient, _save_sort_chunks)
