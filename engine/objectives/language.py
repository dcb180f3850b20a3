"""Next-token prediction, with multi-token prediction heads and z-loss.

Shapes: B micro-batch, S sequence; everything per token is [B, S].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from trivium.engine.objectives.loss import Loss


@dataclass(frozen=True)
class TokenScores:
    """What a head says about the labels: nll = -log p(label) and logsumexp of the logits, fp32.

    share: the head's part of the loss (`head_shares`), where its gradient has been taken already;
    nll and logsumexp then carry none.
    """

    nll_BS: torch.Tensor
    logsumexp_BS: torch.Tensor
    share: torch.Tensor | None = None


def shift_labels(
    labels_BS: torch.Tensor,
    weights_BS: torch.Tensor,
    depth: int,
    document_ids_BS: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels and weights of MTP head `depth`: `depth` tokens further than the next token.

    Where there is no such token (end of the row, or another document) the weight is 0 and the label
    is that of the row's start. Depth 0 is the trunk: both come back as they are.
    """
    if depth == 0:
        return labels_BS, weights_BS
    labels = labels_BS.roll(-depth, dims=1)
    weights = weights_BS.roll(-depth, dims=1) * weights_BS
    weights[:, -depth:] = 0
    if document_ids_BS is not None:
        weights = weights * (document_ids_BS.roll(-depth, dims=1) == document_ids_BS)
    return labels, weights


def head_shares(
    num_heads: int, mtp_weight: float = 0.0, z_weight: float = 0.0
) -> list[tuple[float, float]]:
    """Of the trunk, then of each of `num_heads` MTP heads: (factor, z).

    A head's part of the loss is factor x the sum of weights x (nll + z logsumexp^2).
    """
    return [(1.0, z_weight), *[(mtp_weight / max(1, num_heads), 0.0)] * num_heads]


def language_modelling(
    scores: Sequence[TokenScores],
    weights: Sequence[torch.Tensor],
    mtp_weight: float = 0.0,
    z_weight: float = 0.0,
) -> Loss:
    """Sum of nll over weighted tokens, plus the weighted MTP heads, plus z-loss on the trunk.

    scores, weights: trunk first, then MTP heads; weights are 0/1 per token. The heads share
    `mtp_weight` equally (DeepSeek-V3, arXiv 2412.19437, eq. 24-25); z-loss is
    z_weight * logsumexp^2 (PaLM, arXiv 2204.02311). Each is divided by the trunk's token count.
    """
    count = weights[0].sum()
    metrics: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    parts = []
    shares = head_shares(len(scores) - 1, mtp_weight, z_weight)
    for depth, (score, mask, (factor, z)) in enumerate(zip(scores, weights, shares, strict=True)):
        nll = (score.nll_BS * mask).sum()
        part = factor * nll
        metrics[f"mtp_{depth}_loss" if depth else "loss"] = (
            nll.detach().double(),
            mask.sum().double(),
        )
        if z:
            square = (score.logsumexp_BS.square() * mask).sum()
            part = part + factor * z * square
            metrics["z_loss"] = (z * square.detach().double(), count.double())
        parts.append(part if score.share is None else score.share)
    return Loss(torch.stack(parts).sum(), count.round().to(torch.int), metrics)
