"""Vocabulary-parallel log-probabilities of labels, in chunks of rows.

Logits are never gathered over tp and never copied whole: statistics are taken a few rows at a time,
two small collectives combine them, and the gradient is written over the logits themselves.

Shapes: R rows (tokens), V vocabulary columns of this tensor-parallel rank.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

# rows are taken so that a chunk's fp32 temporary is about this large: in cache on a CPU
_CHUNK_BYTES = {"cpu": 1 << 21, "cuda": 1 << 28}


def label_scores(
    logits_RV: torch.Tensor, labels_R: torch.Tensor, group: dist.ProcessGroup, vocab_size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(-log p(label), logsumexp), fp32 [R] each, differentiable in the logits.

    Columns are split over `group` in rank order; columns from `vocab_size` on are padding and take
    no part. The gradient overwrites `logits_RV`: use the logits for nothing else. Labels must lie
    in [0, vocab_size).
    """
    return _LabelScores.apply(logits_RV, labels_R, group, vocab_size)


class _LabelScores(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits_RV: torch.Tensor,
        labels_R: torch.Tensor,
        group: dist.ProcessGroup,
        vocab_size: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rows, columns = logits_RV.shape
        start = group.rank() * columns
        valid = max(0, min(columns, vocab_size - start))
        local_R = labels_R - start
        mine_R = (local_R >= 0) & (local_R < valid)
        local_R = torch.where(mine_R, local_R, 0)
        chunk = _chunk_rows(logits_RV)

        high_R = logits_RV.new_full((rows,), -torch.inf, dtype=torch.float32)
        total_R = torch.zeros_like(high_R)
        for first in range(0, rows if valid else 0, chunk):
            part = slice(first, first + chunk)
            x = logits_RV[part, :valid].float()
            high_R[part] = x.amax(dim=-1)
            total_R[part] = (x - high_R[part].unsqueeze(1)).exp_().sum(dim=-1)
        target_R = logits_RV.gather(1, local_R.unsqueeze(1)).squeeze(1).float() * mine_R
        if group.size() > 1:
            highest_R = high_R.clone()
            dist.all_reduce(highest_R, dist.ReduceOp.MAX, group=group)
            packed = torch.stack([total_R * (high_R - highest_R).exp(), target_R])
            dist.all_reduce(packed, group=group)
            (total_R, target_R), high_R = packed, highest_R
        logsumexp_R = high_R + total_R.log()

        ctx.save_for_backward(logits_RV, logsumexp_R, local_R, mine_R)
        ctx.valid = valid
        return logsumexp_R - target_R, logsumexp_R

    @staticmethod
    def backward(
        ctx: Any, grad_nll_R: torch.Tensor, grad_logsumexp_R: torch.Tensor
    ) -> tuple[torch.Tensor, None, None, None]:
        logits_RV, logsumexp_R, local_R, mine_R = ctx.saved_tensors
        valid = ctx.valid
        scale_R = (grad_nll_R + grad_logsumexp_R).unsqueeze(1)
        chunk = _chunk_rows(logits_RV)
        for first in range(0, logits_RV.shape[0], chunk):
            part = slice(first, first + chunk)
            out = logits_RV[part, :valid]
            if out.dtype == torch.float32:
                out.sub_(logsumexp_R[part].unsqueeze(1)).exp_().mul_(scale_R[part])
            else:
                x = out.float().sub_(logsumexp_R[part].unsqueeze(1)).exp_()
                out.copy_(x.mul_(scale_R[part]))
        logits_RV[:, valid:] = 0
        minus = torch.where(mine_R, -grad_nll_R, 0.0).to(logits_RV.dtype)
        logits_RV.scatter_add_(1, local_R.unsqueeze(1), minus.unsqueeze(1))
        return logits_RV, None, None, None


def _chunk_rows(logits_RV: torch.Tensor) -> int:
    size = _CHUNK_BYTES["cuda" if logits_RV.is_cuda else "cpu"]
    return max(1, size // (4 * logits_RV.shape[1]))
