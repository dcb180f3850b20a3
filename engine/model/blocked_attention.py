"""Causal attention on a CPU, a block of queries at a time.

The fused CPU kernel behind `F.scaled_dot_product_attention` computes most of the masked half at the
lengths of everyday training, and its backward takes twice the time of the same products in the
matrix library. Here a block of queries meets only the keys up to its last one, the probabilities
of a block stay in cache and are taken again in the backward, and the heads that share a key head
are rows of one product. Products that decide the probabilities and their gradient are fp32; the
others take bf16 operands where the input is bf16, as flash attention does (arXiv 2205.14135).

`BlockedPieces` computes the same for rectangles of scores, whose outputs are merged by their
log-sum-exp (context parallelism); it runs on any device.

Shapes: B micro-batch, N query heads, G key/value groups, n = N / G heads of a group, H = B * G,
S length, T length of the keys, D head dim, R rows = S x n: the n heads of a group lie side by side
at each position.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from trivium.engine.model.zigzag import Piece

_QUERIES = 64  # positions of a block
_SCORES = 1 << 20  # entries of a block of scores, all its heads together: 4 MiB


def causal_attention(
    q_BNSD: torch.Tensor, k_BGSD: torch.Tensor, v_BGSD: torch.Tensor, scale: float | None = None
) -> torch.Tensor:
    """softmax(q k^T scale) v over positions up to the query's: [B, N, S, Dv], in the dtype of q.

    Dv, the last dimension of v, may differ from D. scale: 1 / sqrt(D) unless given.
    """
    (B, N, S, D), G = q_BNSD.shape, k_BGSD.shape[1]
    q_HRD = q_BNSD.unflatten(1, (G, N // G)).transpose(2, 3).reshape(B * G, -1, D)
    k_HSD, v_HSD = k_BGSD.reshape(B * G, S, D), v_BGSD.reshape(B * G, S, -1)
    out_HRD = _Causal.apply(q_HRD, k_HSD, v_HSD, D**-0.5 if scale is None else scale)
    # in memory [S, B, N, D], which is what the output projection reads
    out_SBGnD = out_HRD.view(B, G, S, N // G, -1).permute(2, 0, 1, 3, 4)
    return out_SBGnD.reshape(S, B, N, -1).permute(1, 2, 0, 3)


class _Causal(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q_HRD: torch.Tensor, k_HSD: torch.Tensor, v_HSD: torch.Tensor, scale: float
    ) -> torch.Tensor:
        ctx.save_for_backward(q_HRD, k_HSD, v_HSD)
        ctx.scale = scale
        dtype = _product_dtype(q_HRD.dtype)
        blocks = _Blocks(_wide(q_HRD) * scale, _wide(k_HSD))
        v = v_HSD.to(dtype)
        out = torch.empty(*q_HRD.shape[:2], v.shape[-1], dtype=dtype)
        for heads, rows, keys, scores in blocks:
            probabilities = torch.softmax(scores, -1, out=scores).to(dtype)
            torch.bmm(probabilities, v[heads, keys], out=out[heads, rows])
        return out.to(q_HRD.dtype)

    @staticmethod
    def backward(ctx: Any, grad_HRD: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q_HRD, k_HSD, v_HSD = ctx.saved_tensors
        dtype = _product_dtype(q_HRD.dtype)
        blocks = _Blocks(_wide(q_HRD) * ctx.scale, _wide(k_HSD))
        grad, v = _wide(grad_HRD), _wide(v_HSD)
        q_low, k_low, grad_low = (x.to(dtype) for x in (blocks.q, blocks.k, grad))
        dq = torch.empty_like(q_low)
        dk, dv = torch.zeros_like(blocks.k), torch.zeros_like(v)
        scratch = blocks.scratch()
        for heads, rows, keys, scores in blocks:
            p = torch.softmax(scores, -1, out=scores)
            ds = scratch[: p.numel()].view_as(p)
            torch.bmm(grad[heads, rows], v[heads, keys].mT, out=ds)
            torch.ops.aten._softmax_backward_data.out(ds, p, -1, p.dtype, grad_input=ds)
            p, ds = p.to(dtype), ds.to(dtype)
            _add_product(dv[heads, keys], p.mT, grad_low[heads, rows])
            _add_product(dk[heads, keys], ds.mT, q_low[heads, rows])
            torch.bmm(ds, k_low[heads, keys], out=dq[heads, rows])
        dq = dq.mul_(ctx.scale).to(q_HRD.dtype)
        return dq, dk.to(k_HSD.dtype), dv.to(v_HSD.dtype), None


def _wide(x: torch.Tensor) -> torch.Tensor:
    """x in fp32, or in fp64 where it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _product_dtype(dtype: torch.dtype) -> torch.dtype:
    """Of the products that follow the probabilities; CPUs multiply bf16 faster, fp16 slower."""
    return dtype if dtype == torch.bfloat16 else torch.promote_types(dtype, torch.float32)


def _add_product(total: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    """total += a @ b, batch by batch; total is wide."""
    if a.dtype == total.dtype:
        total.baddbmm_(a, b)
    else:
        total += torch.bmm(a, b)


class BlockedPieces:
    """Pieces of attention in these blocks; outputs are merged and gradients added in place.

    Queries and what belongs to them are [H, R, D], keys and values [H, T, D], as `queries` and
    `keys` make them; out and lse [H, R, Dv], [H, R], and every gradient, are wide.
    """

    def __init__(self, scale: float, groups: int) -> None:
        self.scale = scale
        self.groups = groups  # G: of a rank's key/value heads

    def queries(self, x_SBND: torch.Tensor) -> torch.Tensor:
        """[S, B, N, D] -> [H, R, D]."""
        S, _, N, D = x_SBND.shape
        x_SBGnD = x_SBND.unflatten(2, (self.groups, N // self.groups))
        return x_SBGnD.permute(1, 2, 0, 3, 4).reshape(-1, S * (N // self.groups), D)

    def keys(self, x_SBGD: torch.Tensor) -> torch.Tensor:
        """[T, B, G, D] -> [H, T, D]."""
        return x_SBGD.permute(1, 2, 0, 3).flatten(0, 1)

    def from_queries(self, x_HRD: torch.Tensor, length: int) -> torch.Tensor:
        """[H, R, D] -> [S, B, N, D]."""
        x_BGSnD = x_HRD.unflatten(0, (-1, self.groups)).unflatten(2, (length, -1))
        return x_BGSnD.permute(2, 0, 1, 3, 4).flatten(2, 3)

    def from_keys(self, x_HTD: torch.Tensor) -> torch.Tensor:
        """[H, T, D] -> [T, B, G, D]."""
        return x_HTD.unflatten(0, (-1, self.groups)).permute(2, 0, 1, 3)

    def nothing(self, q: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Output and log-sum-exp of no key at all."""
        dtype = torch.promote_types(q.dtype, torch.float32)
        out = q.new_zeros(*q.shape[:2], v.shape[-1], dtype=dtype)
        return out, q.new_full(q.shape[:2], -torch.inf, dtype=dtype)

    def forward(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        pieces: Sequence[Piece],
        out: torch.Tensor,
        lse: torch.Tensor,
    ) -> None:
        """Merge what `pieces` see into out and lse."""
        dtype = _product_dtype(q.dtype)
        n = q.shape[1] // k.shape[1]
        q_wide, k_wide, v_low = _wide(q) * self.scale, _wide(k), v.to(dtype)
        for piece in pieces:
            q_rows, k_rows = _rows(piece.queries, n), slice(*piece.keys)
            values = v_low[:, k_rows]
            blocks = _Blocks(q_wide[:, q_rows], k_wide[:, k_rows], n, piece.distance, piece.window)
            out_piece, lse_piece = out[:, q_rows], lse[:, q_rows]
            for heads, rows, keys, scores in blocks:
                total = scores.logsumexp(-1)
                probabilities = scores.sub_(total.unsqueeze(-1)).exp_().to(dtype)
                product = torch.bmm(probabilities, values[heads, keys])
                merge(out_piece[heads, rows], lse_piece[heads, rows], product, total)

    def backward(
        self,
        grad: torch.Tensor,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        out: torch.Tensor,
        lse: torch.Tensor,
        pieces: Sequence[Piece],
        dq: torch.Tensor,
        dk: torch.Tensor,
        dv: torch.Tensor,
    ) -> None:
        """Add the gradients of `pieces`; out and lse are those of all keys together."""
        dtype = _product_dtype(q.dtype)
        n = q.shape[1] // k.shape[1]
        q_wide, k_wide, v_wide, grad_wide = _wide(q) * self.scale, _wide(k), _wide(v), _wide(grad)
        q_low, k_low, grad_low = (x.to(dtype) for x in (q_wide, k_wide, grad_wide))
        delta = (grad_wide * out).sum(-1)
        for piece in pieces:
            q_rows, k_rows = _rows(piece.queries, n), slice(*piece.keys)
            blocks = _Blocks(q_wide[:, q_rows], k_wide[:, k_rows], n, piece.distance, piece.window)
            lse_piece, delta_piece = (x[:, q_rows].unsqueeze(-1) for x in (lse, delta))
            q_piece, grad_piece, low_piece, dq_piece = (
                x[:, q_rows] for x in (q_low, grad_wide, grad_low, dq)
            )
            k_piece, v_piece, dk_piece, dv_piece = (x[:, k_rows] for x in (k_low, v_wide, dk, dv))
            for heads, rows, keys, scores in blocks:
                p = scores.sub_(lse_piece[heads, rows]).exp_()
                ds = torch.bmm(grad_piece[heads, rows], v_piece[heads, keys].mT)
                ds = ds.sub_(delta_piece[heads, rows]).mul_(p).to(dtype)
                _add_product(dv_piece[heads, keys], p.to(dtype).mT, low_piece[heads, rows])
                _add_product(dk_piece[heads, keys], ds.mT, q_piece[heads, rows])
                # q was scaled, its gradient is not yet
                dq_piece[heads, rows] += torch.bmm(ds, k_piece[heads, keys]).mul_(self.scale)


def merge(
    out: torch.Tensor, lse: torch.Tensor, more_out: torch.Tensor, more_lse: torch.Tensor
) -> None:
    """Attention over two disjoint sets of keys, from that over each; out and lse in place.

    out [..., D], lse [...]: the log of the sum of a query's exponentiated scores (arXiv 2205.14135,
    section 3.1; over ranks in arXiv 2310.01889).
    """
    total = torch.logaddexp(lse, more_lse)
    weight, more_weight = (lse - total).exp_(), (more_lse - total).exp_()
    out.mul_(weight.unsqueeze(-1)).add_(more_out * more_weight.unsqueeze(-1))
    lse.copy_(total)


def _rows(positions: tuple[int, int], n: int) -> slice:
    return slice(positions[0] * n, positions[1] * n)


class _Blocks:
    """The scores, block after block: (heads, rows of q, keys seen, [h, rows, keys]).

    q: scaled, [H, S x n, D]; k: [H, T, D], both wide. Query i sees key j if
    i + distance - window < j <= i + distance, and every query sees one. What is not seen is -inf;
    a block is overwritten by the next.
    """

    def __init__(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        heads_of_q: int | None = None,
        distance: int = 0,
        window: int | None = None,
    ) -> None:
        self.q, self.k = q, k
        H, T, _ = k.shape
        self.heads_of_q = heads_of_q or q.shape[1] // T  # for one of k
        self.distance, self.window = distance, window
        self.length = min(_QUERIES, q.shape[1] // self.heads_of_q)
        self.together = max(1, min(H, _SCORES // (self.length * self.heads_of_q * T)))

    def scratch(self) -> torch.Tensor:
        """Room for the largest block: every block reuses it, so it stays in cache."""
        T = self.k.shape[1]
        return self.k.new_empty(self.together * self.length * self.heads_of_q * T)

    def __iter__(self) -> Iterator[tuple[slice, slice, slice, torch.Tensor]]:
        (H, T, _), n, length = self.k.shape, self.heads_of_q, self.length
        S = self.q.shape[1] // n
        unseen = self.k.new_full((length, length), -torch.inf)
        future, past = (x.unsqueeze(1) for x in (unseen.triu(1), unseen.tril(-1)))  # over heads
        scratch = self.scratch()
        for first in range(0, H, self.together):
            heads = slice(first, min(first + self.together, H))
            for start in range(0, S, length):
                stop = min(start + length, S)
                diagonal = start + self.distance  # the last key that the first query sees
                edge = 0 if self.window is None else diagonal - self.window + 1  # the first
                keys = slice(max(0, edge), min(T, stop + self.distance))
                rows = slice(start * n, stop * n)
                shape = (heads.stop - first, (stop - start) * n, keys.stop - keys.start)
                scores = scratch[: math.prod(shape)].view(shape)
                torch.bmm(self.q[heads, rows], self.k[heads, keys].mT, out=scores)
                by_query = scores.unflatten(1, (-1, n))
                if diagonal + 1 < keys.stop:
                    own = by_query[..., diagonal - keys.start :]
                    own += future[: stop - start, :, : own.shape[-1]]
                if self.window is not None:
                    beyond = past[: stop - start, :, keys.start - edge : keys.stop - edge]
                    by_query[..., : beyond.shape[-1]] += beyond
                yield heads, rows, keys, scores
