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
    """What a head says about the labels: nll = -log p(label) and logsumexp of the logits, fp32."""

    nll_BS: torch.Tensor
    logsumexp_BS: torch.Tensor


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
    trunk, mask = scores[0], weights[0]
    count = mask.sum()
    nll = (trunk.nll_BS * mask).sum()
    total = nll
    metrics = {"loss": (nll.detach().double(), count.double())}
    if z_weight:
        z = (trunk.logsumexp_BS.square() * mask).sum()
        total = total + z_weight * z
        metrics["z_loss"] = (z_weight * z.detach().double(), count.double())
    heads = len(scores) - 1
    for depth in range(1, heads + 1):
        head = (scores[depth].nll_BS * weights[depth]).sum()
        total = total + (mtp_weight / heads) * head
        metrics[f"mtp_{depth}_loss"] = (head.detach().double(), weights[depth].sum().double())
    return Loss(total, count.round().to(torch.int), metrics)
