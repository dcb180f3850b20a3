"""Attention whose scores are capped: c tanh(score / c) (Gemma 2, arXiv 2408.00118, section 2).

No fused kernel of torch has the cap, so scores are made here, for a block of queries at a time, and
once more in the backward pass: no row's scores are ever held as a whole.

Shapes: S query length, T key length, B batch, N query heads, G key/value groups, D head dim.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

_BLOCK = 256  # queries: bounds the scores that are held to B x N x 256 x T


def capped_attention(
    q_BNSD: torch.Tensor,
    k_BGTD: torch.Tensor,
    v_BGTD: torch.Tensor,
    scale: float | None,
    cap: float,
    window: int | None = None,
    dropout: float = 0.0,
) -> torch.Tensor:
    """Causal attention [B, N, S, Dv]; queries are the last S of T positions.

    scale: of the scores, before the cap; None is 1 / sqrt(D). window: tokens seen, the token itself
    included.
    """
    S, T = q_BNSD.shape[2], k_BGTD.shape[2]
    again = S > _BLOCK and torch.is_grad_enabled()
    outs = []
    # the largest first, so that the others find room where its scores were
    for start in reversed(range(0, S, _BLOCK)):
        stop = min(start + _BLOCK, S)
        last = T - S + stop  # no query of the block sees further
        first = 0 if window is None else max(0, T - S + start - window + 1)
        block = q_BNSD[:, :, start:stop], k_BGTD[:, :, first:last], v_BGTD[:, :, first:last]
        given = *block, scale, cap, window, dropout
        if again:
            random = dropout > 0
            out = checkpoint(_block, *given, use_reentrant=False, preserve_rng_state=random)
        else:
            out = _block(*given)
        outs.append(out)
    return torch.cat(outs[::-1], dim=2)


def _block(
    q_BNSD: torch.Tensor,
    k_BGTD: torch.Tensor,
    v_BGTD: torch.Tensor,
    scale: float | None,
    cap: float,
    window: int | None,
    dropout: float,
) -> torch.Tensor:
    """As `capped_attention`, all scores at once."""
    S, T = q_BNSD.shape[2], k_BGTD.shape[2]
    query = torch.arange(T - S, T, device=q_BNSD.device).unsqueeze(1)
    key = torch.arange(T, device=q_BNSD.device).unsqueeze(0)
    seen = key <= query
    if window is not None:
        seen = seen & (key > query - window)
    return capped_scores(q_BNSD, k_BGTD, v_BGTD, scale, cap, seen, dropout)


def capped_scores(
    q_BNSD: torch.Tensor,
    k_BGTD: torch.Tensor,
    v_BGTD: torch.Tensor,
    scale: float | None,
    cap: float,
    seen: torch.Tensor | None,
    dropout: float = 0.0,
) -> torch.Tensor:
    """[B, N, S, Dv]; seen: bool, broadcast over [B, N or 1, S, T], what each query sees.

    Scores and their softmax are computed in fp32 (fp64 stays fp64).
    """
    B, N, S, D = q_BNSD.shape
    G = k_BGTD.shape[1]
    scale = 1 / math.sqrt(D) if scale is None else scale
    q_BGMSD = q_BNSD.reshape(B, G, N // G, S, D)
    scores = q_BGMSD @ k_BGTD.unsqueeze(2).transpose(-1, -2)
    wide = scores if scores.dtype == torch.float64 else scores.float()
    wide = cap * torch.tanh(wide * (scale / cap))
    if seen is not None:
        wide = wide.masked_fill(~(seen if seen.dim() == 2 else seen.unsqueeze(2)), -torch.inf)
    weights = wide.softmax(-1).to(v_BGTD.dtype)
    if dropout:
        weights = F.dropout(weights, dropout)
    return (weights @ v_BGTD.unsqueeze(2)).reshape(B, N, S, v_BGTD.shape[-1])
