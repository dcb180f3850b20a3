"""Cross-entropy of logits whose vocabulary is split over ranks, with the gradient over the logits.

    p = softmax(x)      logsumexp = max + log sum e^(x - max)      nll = logsumexp - x[label]
    entropy = -sum p log p = log sum e^(x - max) - sum p (x - max)
    d nll / dx = p - [label]    d logsumexp / dx = p    d entropy / dx = -p (log p + entropy)

Each rank takes online statistics of its columns in one read (arXiv 1805.02867); one small
all-gather combines them in rank order, so that every rank has the same bits. The gradient needs one
more read and one write, over the logits, and logits are never copied. Where the whole vocabulary is
on this rank and the tokens' weights are known beforehand, `weighted_cross_entropy` writes the
gradient in the forward pass: one read and one write in all.

Shapes: R rows (tokens), V columns of this rank. Statistics [4, R]: high (the largest logit), total
(sum e^(x - high)), target (the label's logit or 0), weighted (sum e^(x - high) (x - high) or 0).
Scores [5, R]: nll, logsumexp, entropy, high, total. Both fp32 (fp64 for fp64 logits).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable

from trivium.kernels.registry import Operator

CROSS_ENTROPY = Operator(
    "cross_entropy", "loss, logsumexp, entropy of a sharded vocabulary; gradient over the logits"
)

# below every exponent that matters, and finite: 0 times it is 0
_FLOOR = -1e30
# the reference takes so many rows that their fp32 temporary is this large: in cache on a CPU
_CHUNK_BYTES = {"cpu": 1 << 21, "cuda": 1 << 28}
_NLL, _LOGSUMEXP, _ENTROPY, _HIGH, _TOTAL = range(5)


# --- What is called -------------------------------------------------------------------------------


def token_scores(
    logits_RV: torch.Tensor,
    labels_R: torch.Tensor,
    group: dist.ProcessGroup | None = None,
    vocab_size: int | None = None,
    entropy: bool = False,
) -> tuple[torch.Tensor, ...]:
    """(-log p(label), logsumexp), and with `entropy` the entropy in nats: fp32 [R], differentiable.

    Args:
        logits_RV: this rank's columns; `group` splits the vocabulary in rank order, evenly.
        labels_R: int64, in [0, vocab_size); a negative one is ignored: nll 0, without gradient.
        group: None for one rank.
        vocab_size: columns from it on are padding and take no part; None: there is none.

    The gradient overwrites `logits_RV`: use the logits for nothing else, and differentiate once.
    """
    found = _TokenScores.apply(logits_RV, labels_R, group, vocab_size, entropy)
    return found if entropy else found[:2]


def weighted_cross_entropy(
    logits_RV: torch.Tensor,
    labels_R: torch.Tensor,
    weights_R: torch.Tensor,
    group: dist.ProcessGroup | None = None,
    vocab_size: int | None = None,
    z_weight: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(sum of weights (nll + z_weight logsumexp^2), nll, logsumexp); the sum is differentiable.

    Arguments as of `token_scores`; weights_R: fp32, constant. On one rank the gradient overwrites
    the logits at once and is scaled in the backward pass, if the sum's own gradient is not 1. Not
    in fp16, where small gradients vanish unless the loss scale is in them from the start.
    """
    now = torch.is_grad_enabled() and logits_RV.requires_grad and logits_RV.dtype != torch.float16
    if now and (group is None or group.size() == 1):
        return _WeightedNow.apply(logits_RV, labels_R, weights_R, vocab_size, z_weight)
    nll_R, logsumexp_R = token_scores(logits_RV, labels_R, group, vocab_size)
    total = weighted_sum(nll_R, logsumexp_R, weights_R, z_weight)
    return total, nll_R.detach(), logsumexp_R.detach()


def weighted_sum(
    nll_R: torch.Tensor, logsumexp_R: torch.Tensor, weights_R: torch.Tensor, z_weight: float
) -> torch.Tensor:
    """Sum of weights (nll + z_weight logsumexp^2)."""
    each_R = nll_R + z_weight * logsumexp_R.square() if z_weight else nll_R
    return (each_R * weights_R).sum()


class Shard:
    """A rank's part of the vocabulary, and what turns its logits into scores and gradients."""

    def __init__(
        self, columns: int, group: dist.ProcessGroup | None, vocab_size: int | None
    ) -> None:
        self.size = 1 if group is None else group.size()
        self.group = group
        self.start = 0 if group is None else group.rank() * columns
        width = columns * self.size
        vocab_size = width if vocab_size is None else vocab_size
        if not 0 < vocab_size <= width:
            raise ValueError(
                f"vocab_size={vocab_size}: must be within 1 and the {self.size} x {columns} columns"
            )
        self.valid = max(0, min(columns, vocab_size - self.start))

    def scores(
        self, logits_RV: torch.Tensor, labels_R: torch.Tensor, entropy: bool = False
    ) -> torch.Tensor:
        """Scores [5, R], the same on every rank of the group."""
        parts = torch.ops.trivium.cross_entropy_statistics(
            logits_RV, labels_R, self.start, self.valid, entropy
        )
        if self.size > 1:
            mine, parts = parts, parts.new_empty(self.size * parts.shape[0], parts.shape[1])
            dist.all_gather_into_tensor(parts, mine, group=self.group)
        shards = parts.view(self.size, 4, labels_R.shape[0])
        return torch.ops.trivium.cross_entropy_combine(shards, labels_R, entropy)

    def differentiate_(
        self,
        logits_RV: torch.Tensor,
        labels_R: torch.Tensor,
        scores: torch.Tensor,
        by_nll_R: torch.Tensor | None,
        by_logsumexp_R: torch.Tensor | None = None,
        by_entropy_R: torch.Tensor | None = None,
    ) -> None:
        """Write the gradient in the logits over them; None: that score has no gradient."""
        torch.ops.trivium.cross_entropy_gradient_(
            logits_RV, labels_R, scores, by_nll_R, by_logsumexp_R, by_entropy_R,
            self.start, self.valid,
        )  # fmt: skip
        torch.autograd.graph.increment_version(logits_RV)

    def differentiate_weighted_(
        self,
        logits_RV: torch.Tensor,
        labels_R: torch.Tensor,
        weights_R: torch.Tensor,
        z_weight: float,
    ) -> torch.Tensor:
        """The scores; the gradient of `weighted_sum` is written over the logits."""
        if self.size == 1:
            scores = torch.ops.trivium.cross_entropy_one_pass_(
                logits_RV, labels_R, weights_R, z_weight, self.valid, False
            )
            torch.autograd.graph.increment_version(logits_RV)
            return scores
        scores = self.scores(logits_RV, labels_R)
        by_logsumexp_R = 2 * z_weight * weights_R * scores[_LOGSUMEXP] if z_weight else None
        self.differentiate_(logits_RV, labels_R, scores, weights_R, by_logsumexp_R)
        return scores


def scale_(x: torch.Tensor, factor: torch.Tensor) -> None:
    """x *= factor (0-dim), without asking the device and without touching x where factor is 1."""
    torch.ops.trivium.cross_entropy_scale_(x, factor)
    torch.autograd.graph.increment_version(x)


def per_token(value_R: torch.Tensor | None, scores: torch.Tensor) -> torch.Tensor | None:
    """A gradient or weight of each token as the operators take it: of the scores' dtype, dense."""
    return None if value_R is None else value_R.to(scores.dtype).contiguous()


class _TokenScores(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits_RV: torch.Tensor,
        labels_R: torch.Tensor,
        group: dist.ProcessGroup | None,
        vocab_size: int | None,
        entropy: bool,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        logits_RV, labels_R = _with_dense_rows(logits_RV), labels_R.contiguous()
        ctx.shard = Shard(logits_RV.shape[1], group, vocab_size)
        scores = ctx.shard.scores(logits_RV, labels_R, entropy)
        ctx.save_for_backward(logits_RV, labels_R, scores)
        ctx.set_materialize_grads(False)
        if not entropy:
            ctx.mark_non_differentiable(spare := scores.new_empty(0))
        third = scores[_ENTROPY].clone() if entropy else spare
        return scores[_NLL].clone(), scores[_LOGSUMEXP].clone(), third

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *by: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        logits_RV, labels_R, scores = ctx.saved_tensors
        by_nll, by_logsumexp, by_entropy = (per_token(one, scores) for one in by)
        ctx.shard.differentiate_(logits_RV, labels_R, scores, by_nll, by_logsumexp, by_entropy)
        return logits_RV, None, None, None, None


class _WeightedNow(torch.autograd.Function):
    """`weighted_cross_entropy` whose gradient is over the logits when the forward pass ends."""

    @staticmethod
    def forward(
        ctx: Any,
        logits_RV: torch.Tensor,
        labels_R: torch.Tensor,
        weights_R: torch.Tensor,
        vocab_size: int | None,
        z_weight: float,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        logits_RV, labels_R = _with_dense_rows(logits_RV), labels_R.contiguous()
        weights_R = weights_R.to(_wide(logits_RV)).contiguous()
        shard = Shard(logits_RV.shape[1], None, vocab_size)
        scores = shard.differentiate_weighted_(logits_RV, labels_R, weights_R, z_weight)
        ctx.save_for_backward(logits_RV)
        nll_R, logsumexp_R = scores[_NLL].clone(), scores[_LOGSUMEXP].clone()
        ctx.mark_non_differentiable(nll_R, logsumexp_R)
        return weighted_sum(nll_R, logsumexp_R, weights_R, z_weight), nll_R, logsumexp_R

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, by_sum: torch.Tensor, *nothing: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        del nothing
        (gradient_RV,) = ctx.saved_tensors
        if gradient_RV.is_contiguous():
            scale_(gradient_RV, by_sum)
        else:
            gradient_RV.mul_(by_sum)
        return gradient_RV, None, None, None, None


def _with_dense_rows(logits_RV: torch.Tensor) -> torch.Tensor:
    """The logits themselves, if a row's elements are neighbours in memory; else a copy."""
    dense = logits_RV.stride(1) == 1 or logits_RV.shape[1] == 1
    return logits_RV if dense else logits_RV.contiguous()


# --- The operators --------------------------------------------------------------------------------


def _wide(logits: torch.Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def _chunks(logits_RV: torch.Tensor) -> list[slice]:
    size = _CHUNK_BYTES["cuda" if logits_RV.is_cuda else "cpu"]
    rows, step = logits_RV.shape[0], max(1, size // (4 * max(1, logits_RV.shape[1])))
    return [slice(first, min(rows, first + step)) for first in range(0, rows, step)]


def _base(high: torch.Tensor) -> torch.Tensor:
    """What to subtract from logits whose largest is `high`: that, or 0 where all are -inf."""
    return torch.where(high == -torch.inf, 0.0, high)


def _own_labels(
    labels_R: torch.Tensor, start: int, valid: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The labels' columns (0 where a label is not here), and whether they are here."""
    local_R = labels_R - start
    mine_R = (labels_R >= 0) & (local_R >= 0) & (local_R < valid)
    return torch.where(mine_R, local_R, 0), mine_R


@CROSS_ENTROPY.define(
    "cross_entropy_statistics(Tensor logits, Tensor labels, int start, int valid, bool entropy)"
    " -> Tensor"
)
def _statistics(
    logits: torch.Tensor, labels: torch.Tensor, start: int, valid: int, entropy: bool
) -> torch.Tensor:
    """Statistics [4, R] of columns [0, valid), the first of which is number `start` of all."""
    wide = _wide(logits)
    out = logits.new_zeros(4, logits.shape[0], dtype=wide)
    high, total, target, weighted = out
    high.fill_(-torch.inf)
    if valid == 0:
        return out
    for part in _chunks(logits):
        x = logits[part, :valid].to(wide)
        torch.amax(x, dim=-1, out=high[part])
        below = x - _base(high[part]).unsqueeze(1)
        if not entropy:
            total[part] = below.exp_().sum(dim=-1)
            continue
        exponential = below.exp()
        total[part] = exponential.sum(dim=-1)
        weighted[part] = exponential.mul_(below.clamp_(min=_FLOOR)).sum(dim=-1)
    local, mine = _own_labels(labels, start, valid)
    found = logits.gather(1, local.unsqueeze(1)).squeeze(1).to(wide)
    target.copy_(torch.where(mine, found, 0.0))
    return out


@CROSS_ENTROPY.fake("cross_entropy_statistics")
def _(
    logits: torch.Tensor, labels: torch.Tensor, start: int, valid: int, entropy: bool
) -> torch.Tensor:
    return logits.new_empty(4, logits.shape[0], dtype=_wide(logits))


@CROSS_ENTROPY.define(
    "cross_entropy_combine(Tensor statistics, Tensor labels, bool entropy) -> Tensor"
)
def _combine(statistics: torch.Tensor, labels: torch.Tensor, entropy: bool) -> torch.Tensor:
    """Scores [5, R] from the statistics [shards, 4, R] of every rank."""
    highs, totals, targets, weighted = statistics.unbind(1)
    high, target = highs.amax(dim=0), targets.sum(dim=0)
    shift = (highs - _base(high)).clamp(min=_FLOOR)
    scale = shift.exp()
    total = (totals * scale).sum(dim=0)
    log_total = total.log()
    nll = torch.where(labels < 0, 0.0, (high - target) + log_total)
    if entropy:
        mean = ((weighted + shift * totals) * scale).sum(dim=0) / total
        spread = log_total - mean
    else:
        spread = torch.zeros_like(total)
    return torch.stack([nll, high + log_total, spread, high, total])


@CROSS_ENTROPY.fake("cross_entropy_combine")
def _(statistics: torch.Tensor, labels: torch.Tensor, entropy: bool) -> torch.Tensor:
    return statistics.new_empty(5, statistics.shape[2])


@CROSS_ENTROPY.define(
    "cross_entropy_gradient_(Tensor(a!) logits, Tensor labels, Tensor scores, Tensor? by_nll,"
    " Tensor? by_logsumexp, Tensor? by_entropy, int start, int valid) -> ()"
)
def _gradient(
    logits: torch.Tensor,
    labels: torch.Tensor,
    scores: torch.Tensor,
    by_nll: torch.Tensor | None,
    by_logsumexp: torch.Tensor | None,
    by_entropy: torch.Tensor | None,
    start: int,
    valid: int,
) -> None:
    """logits <- p (by_nll + by_logsumexp - by_entropy (log p + entropy)) - by_nll [label]."""
    base, total = _base(scores[_HIGH]), scores[_TOTAL]
    zero = torch.zeros_like(total)
    by_label = zero if by_nll is None else torch.where(labels < 0, 0.0, by_nll)
    scale = by_label if by_logsumexp is None else by_label + by_logsumexp
    local, mine = _own_labels(labels, start, valid)
    at_label = torch.where(mine, -by_label, 0.0).unsqueeze(1)
    for part in _chunks(logits) if valid else ():
        out = logits[part, :valid]
        x = out if out.dtype == scores.dtype else out.to(scores.dtype)
        x.sub_(base[part].unsqueeze(1))
        if by_entropy is None:
            x.exp_().mul_((scale / total)[part].unsqueeze(1))
        else:
            log_p = (x - total[part].log().unsqueeze(1)).clamp_(min=_FLOOR)
            x.exp_().mul_((1 / total)[part].unsqueeze(1))
            log_p.add_(scores[_ENTROPY, part].unsqueeze(1)).mul_(by_entropy[part].unsqueeze(1))
            x.mul_(scale[part].unsqueeze(1) - log_p)
        x.scatter_add_(1, local[part].unsqueeze(1), at_label[part])
        if x is not out:
            out.copy_(x)
    logits[:, valid:] = 0


@CROSS_ENTROPY.fake("cross_entropy_gradient_")
def _(
    logits: torch.Tensor,
    labels: torch.Tensor,
    scores: torch.Tensor,
    by_nll: torch.Tensor | None,
    by_logsumexp: torch.Tensor | None,
    by_entropy: torch.Tensor | None,
    start: int,
    valid: int,
) -> None:
    return None


@CROSS_ENTROPY.define(
    "cross_entropy_one_pass_(Tensor(a!) logits, Tensor labels, Tensor weights, float z_weight,"
    " int valid, bool entropy) -> Tensor"
)
def _one_pass(
    logits: torch.Tensor,
    labels: torch.Tensor,
    weights: torch.Tensor,
    z_weight: float,
    valid: int,
    entropy: bool,
) -> torch.Tensor:
    """Scores [5, R] of the whole vocabulary.

    Over the logits goes the gradient of the sum of weights (nll + z_weight logsumexp^2).
    """
    wide = _wide(logits)
    out = logits.new_zeros(5, logits.shape[0], dtype=wide)
    local, mine = _own_labels(labels, 0, valid)
    ignored = labels < 0
    at_label = torch.where(mine, -weights, 0.0)
    for part in _chunks(logits):
        place = logits[part, :valid]
        x = place if place.dtype == wide else place.to(wide)
        high = x.amax(dim=-1)
        target = x.gather(1, local[part].unsqueeze(1)).squeeze(1)
        x.sub_(_base(high).unsqueeze(1))
        below = x.clamp(min=_FLOOR) if entropy else None
        total = x.exp_().sum(dim=-1)
        log_total = total.log()
        logsumexp = high + log_total
        nll = high - torch.where(mine[part], target, 0.0) + log_total
        out[_NLL, part] = torch.where(ignored[part], 0.0, nll)
        out[_LOGSUMEXP, part], out[_HIGH, part], out[_TOTAL, part] = logsumexp, high, total
        if below is not None:
            out[_ENTROPY, part] = log_total - below.mul_(x).sum(dim=-1) / total
        scale = torch.where(ignored[part], 0.0, weights[part])
        if z_weight:
            scale = scale + 2 * z_weight * weights[part] * logsumexp
        x.mul_((scale / total).unsqueeze(1))
        x.scatter_add_(1, local[part].unsqueeze(1), at_label[part].unsqueeze(1))
        if x is not place:
            place.copy_(x)
    logits[:, valid:] = 0
    return out


@CROSS_ENTROPY.fake("cross_entropy_one_pass_")
def _(
    logits: torch.Tensor,
    labels: torch.Tensor,
    weights: torch.Tensor,
    z_weight: float,
    valid: int,
    entropy: bool,
) -> torch.Tensor:
    return logits.new_empty(5, logits.shape[0], dtype=_wide(logits))


@CROSS_ENTROPY.define("cross_entropy_scale_(Tensor(a!) x, Tensor factor) -> ()")
def _scale(x: torch.Tensor, factor: torch.Tensor) -> None:
    """x *= factor; the kernel reads the factor on the device, and leaves x alone where it is 1."""
    if x.device.type != "cpu" or float(factor) != 1.0:
        x.mul_(factor)


@CROSS_ENTROPY.fake("cross_entropy_scale_")
def _(x: torch.Tensor, factor: torch.Tensor) -> None:
    return None
