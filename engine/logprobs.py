"""Vocabulary-parallel log-probabilities of labels: `kernels.cross_entropy`, as the engine has them.

Shapes: R rows (tokens), V vocabulary columns of this tensor-parallel rank.
"""

from __future__ import annotations

import torch
import torch.distributed as dist

from trivium.kernels.cross_entropy import token_scores


def label_scores(
    logits_RV: torch.Tensor, labels_R: torch.Tensor, group: dist.ProcessGroup, vocab_size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(-log p(label), logsumexp), fp32 [R] each, differentiable in the logits.

    Columns are split over `group` in rank order; columns from `vocab_size` on are padding and take
    no part. The gradient overwrites `logits_RV`: use the logits for nothing else. Labels must lie
    in [0, vocab_size); a negative one has nll 0 and no gradient by it.
    """
    nll_R, logsumexp_R = token_scores(logits_RV, labels_R, group, vocab_size)
    return nll_R, logsumexp_R
