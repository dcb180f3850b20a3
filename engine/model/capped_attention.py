"""Attention whose scores are capped: c tanh(score / c) (Gemma 2, arXiv 2408.00118, section 2).

No fused kernel of torch has the cap, so scores are made here, for a block of queries at a time.

Shapes: S query length, T key length, B batch, N query heads, G key/value groups, D head dim.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

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
    included. Scores and their softmax are computed in fp32 (fp64 stays fp64).
    """
    B, N, S, D = q_BNSD.shape
    G, T = k_BGTD.shape[1:3]
    q_BGMSD = q_BNSD.reshape(B, G, N // G, S, D)
    keys, values = k_BGTD.unsqueeze(2), v_BGTD.unsqueeze(2)
    scale = 1 / math.sqrt(D) if scale is None else scale
    outs = []
    for start in range(0, S, _BLOCK):
        stop = min(start + _BLOCK, S)
        last = T - S + stop  # no query of the block sees further
        first = 0 if window is None else max(0, T - S + start - window + 1)
        query = torch.arange(T - S + start, last, device=q_BNSD.device).unsqueeze(1)
        key = torch.arange(first, last, device=q_BNSD.device).unsqueeze(0)
        unseen = key > query
        if window is not None:
            unseen = unseen | (key <= query - window)
        scores = q_BGMSD[..., start:stop, :] @ keys[..., first:last, :].transpose(-1, -2)
        wide = scores if scores.dtype == torch.float64 else scores.float()
        wide = cap * torch.tanh(wide * (scale / cap))
        weights = wide.masked_fill(unseen, -torch.inf).softmax(-1).to(v_BGTD.dtype)
        if dropout:
            weights = F.dropout(weights, dropout)
        outs.append(weights @ values[..., first:last, :])
    return torch.cat(outs, dim=3).reshape(B, N, S, v_BGTD.shape[-1])
