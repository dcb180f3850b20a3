"""The output layer and its cross-entropy together, a chunk of rows at a time: never all logits.

A chunk's logits are one product, their scores and gradient `cross_entropy`'s over them, and what
flows to hidden states and weight two more products; the next chunk uses the same memory. Two ways:

- `linear_cross_entropy`: each token's weight is known beforehand, so all gradients are taken in the
  forward pass: 6 R H V operations, as many as without chunks.
- `linear_token_scores`: what flows into the scores is known in the backward pass only (DPO, GRPO),
  where the logits are computed again: 8 R H V.

The weight's gradient is the sum of one product a chunk. Up to 8 of them are summed in the weight's
own dtype, added in fp32 and rounded once a chunk: at most 4e-3 off for bf16, where rounding once is
1.7e-3 off; more are summed in an fp32 matrix of the weight's size. Under tensor parallelism the
weight holds this rank's part of the vocabulary, and the hidden states' gradient is summed over the
ranks.

Shapes: R rows (tokens), H hidden, V vocabulary columns of this rank; R is R / ranks where hidden
states come sharded by rows (sequence parallelism).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable

from trivium.kernels.cross_entropy import Shard, per_token, scale_, weighted_sum
from trivium.kernels.weight_gradient import accumulate

SCRATCH_BYTES = 1 << 29  # of logits at a time; a GPU's products want 1000 rows and more
_OWN_DTYPE_CHUNKS = 8


def linear_cross_entropy(
    hidden_RH: torch.Tensor,
    weight_VH: torch.Tensor,
    labels_R: torch.Tensor,
    weights_R: torch.Tensor,
    group: dist.ProcessGroup | None = None,
    vocab_size: int | None = None,
    z_weight: float = 0.0,
    sharded_rows: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(sum of weights (nll + z_weight logsumexp^2), nll, logsumexp); the sum is differentiable.

    Args:
        hidden_RH: all rows, or with `sharded_rows` those of this rank, in rank order.
        weight_VH: this rank's rows of the output layer; `group` splits the vocabulary evenly.
        labels_R: of all rows: int64, in [0, vocab_size); a negative one is ignored.
        weights_R: of all rows: fp32, constant.
        group: None for one rank.
        vocab_size: logits from it on are padding and take no part; None: there is none.

    Gradients are kept from the forward pass on and scaled, if need be, in the backward pass. In
    fp16 they would lose their small values before the loss scale comes: there they are recomputed.
    """
    if hidden_RH.dtype == torch.float16:
        nll_R, logsumexp_R = linear_token_scores(
            hidden_RH, weight_VH, labels_R, group, vocab_size, sharded_rows=sharded_rows
        )
        total = weighted_sum(nll_R, logsumexp_R, weights_R, z_weight)
        return total, nll_R.detach(), logsumexp_R.detach()
    output = _Output(group, vocab_size, sharded_rows)
    return _Weighted.apply(hidden_RH, weight_VH, labels_R, weights_R, output, z_weight)


def linear_token_scores(
    hidden_RH: torch.Tensor,
    weight_VH: torch.Tensor,
    labels_R: torch.Tensor,
    group: dist.ProcessGroup | None = None,
    vocab_size: int | None = None,
    entropy: bool = False,
    sharded_rows: bool = False,
) -> tuple[torch.Tensor, ...]:
    """(-log p(label), logsumexp), and with `entropy` the entropy in nats: fp32 [R], differentiable.

    Arguments as of `linear_cross_entropy`.
    """
    output = _Output(group, vocab_size, sharded_rows)
    found = _TokenScores.apply(hidden_RH, weight_VH, labels_R, output, entropy)
    return found if entropy else found[:2]


@dataclass(frozen=True)
class _Output:
    """How an output layer lies over ranks."""

    group: dist.ProcessGroup | None
    vocab_size: int | None
    sharded_rows: bool

    def shard(self, weight_VH: torch.Tensor) -> Shard:
        return Shard(weight_VH.shape[0], self.group, self.vocab_size)

    @property
    def size(self) -> int:
        return 1 if self.group is None else self.group.size()

    def all_rows(self, hidden_RH: torch.Tensor) -> torch.Tensor:
        """The hidden states of every row. Collective where rows are sharded."""
        hidden_RH = hidden_RH.contiguous()
        if not self.sharded_rows or self.size == 1:
            return hidden_RH
        whole = hidden_RH.new_empty(self.size * hidden_RH.shape[0], hidden_RH.shape[1])
        dist.all_gather_into_tensor(whole, hidden_RH, group=self.group)
        return whole

    def reduced(self, gradient_RH: torch.Tensor) -> torch.Tensor:
        """The gradient of this rank's rows, from every rank's part of it. Collective."""
        if self.size == 1:
            return gradient_RH
        if not self.sharded_rows:
            dist.all_reduce(gradient_RH, group=self.group)
            return gradient_RH
        rows = gradient_RH.shape[0] // self.size
        mine = gradient_RH.new_empty(rows, gradient_RH.shape[1])
        dist.reduce_scatter_tensor(mine, gradient_RH, group=self.group)
        return mine


def _chunks(rows: int, columns: int, element_size: int) -> list[slice]:
    """Equal chunks of rows, in 128s, whose logits fit SCRATCH_BYTES; at least one, maybe empty."""
    most = max(1, SCRATCH_BYTES // max(1, columns * element_size))
    most = most // 128 * 128 or most
    count = max(1, -(-rows // most))
    step = -(-rows // count)
    step = min(most, -(-step // 128) * 128) or 1
    return [slice(first, min(rows, first + step)) for first in range(0, max(1, rows), step)]


class _Chunked:
    """The chunks of one pass over all rows, in turn, and the gradients that they add up to."""

    def __init__(
        self, hidden_RH: torch.Tensor, weight_VH: torch.Tensor, wanted: tuple[bool, bool]
    ) -> None:
        self.hidden_RH, self.weight_VH = hidden_RH, weight_VH.detach()
        rows, columns = hidden_RH.shape[0], weight_VH.shape[0]
        self.slices = _chunks(rows, columns, weight_VH.element_size())
        self.by_hidden = torch.empty_like(hidden_RH) if wanted[0] else None
        self.by_weight: torch.Tensor | None = None
        if wanted[1]:
            few = len(self.slices) <= _OWN_DTYPE_CHUNKS or weight_VH.dtype == torch.float64
            dtype = weight_VH.dtype if few else torch.float32
            self.by_weight = torch.empty_like(
                weight_VH, dtype=dtype, memory_format=torch.contiguous_format
            )

    def __iter__(self) -> Iterator[tuple[slice, torch.Tensor]]:
        """Rows and their logits, which the caller replaces by their gradient if one is wanted."""
        most = max(part.stop - part.start for part in self.slices)
        scratch = self.hidden_RH.new_empty(most, self.weight_VH.shape[0])
        for part in self.slices:
            hidden, logits = self.hidden_RH[part], scratch[: part.stop - part.start]
            torch.mm(hidden, self.weight_VH.t(), out=logits)
            yield part, logits
            if self.by_hidden is not None:
                torch.mm(logits, self.weight_VH, out=self.by_hidden[part])
            if self.by_weight is None:
                continue
            if part.start > 0:
                accumulate(hidden, logits, self.by_weight)
            elif self.by_weight.dtype == logits.dtype:
                torch.mm(logits.t(), hidden, out=self.by_weight)
            else:
                accumulate(hidden, logits, self.by_weight.zero_())

    def gradients(self, output: _Output) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """In the hidden states of this rank and in its weight, once all chunks are done."""
        by_hidden = None if self.by_hidden is None else output.reduced(self.by_hidden)
        by_weight = None if self.by_weight is None else self.by_weight.to(self.weight_VH.dtype)
        return by_hidden, by_weight


class _Weighted(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_RH: torch.Tensor,
        weight_VH: torch.Tensor,
        labels_R: torch.Tensor,
        weights_R: torch.Tensor,
        output: _Output,
        z_weight: float,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        shard, wanted = output.shard(weight_VH), ctx.needs_input_grad[:2]
        chunked = _Chunked(output.all_rows(hidden_RH), weight_VH, wanted)
        found = []
        for part, logits in chunked:
            labels = labels_R[part].contiguous()
            if any(wanted):
                weights = weights_R[part].to(_wide(logits)).contiguous()
                scores = shard.differentiate_weighted_(logits, labels, weights, z_weight)
            else:
                scores = shard.scores(logits, labels)
            found.append(scores[:2])
        by_hidden, by_weight = chunked.gradients(output)
        ctx.save_for_backward(by_hidden, by_weight)
        nll_R, logsumexp_R = (one.clone() for one in torch.cat(found, dim=1))
        ctx.mark_non_differentiable(nll_R, logsumexp_R)
        return weighted_sum(nll_R, logsumexp_R, weights_R, z_weight), nll_R, logsumexp_R

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, by_sum: torch.Tensor, *nothing: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        del nothing
        by_hidden, by_weight = ctx.saved_tensors
        for gradient in (by_hidden, by_weight):
            if gradient is not None:
                scale_(gradient, by_sum)
        return by_hidden, by_weight, None, None, None, None


class _TokenScores(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_RH: torch.Tensor,
        weight_VH: torch.Tensor,
        labels_R: torch.Tensor,
        output: _Output,
        entropy: bool,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        shard = output.shard(weight_VH)
        chunked = _Chunked(output.all_rows(hidden_RH), weight_VH, (False, False))
        found = [
            shard.scores(logits, labels_R[part].contiguous(), entropy) for part, logits in chunked
        ]
        ctx.save_for_backward(hidden_RH, weight_VH, labels_R, *found)
        ctx.output = output
        ctx.set_materialize_grads(False)
        nll_R, logsumexp_R, entropy_R = (
            one.clone() for one in torch.cat([scores[:3] for scores in found], dim=1)
        )
        if not entropy:
            ctx.mark_non_differentiable(entropy_R)
        return nll_R, logsumexp_R, entropy_R

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *by: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        hidden_RH, weight_VH, labels_R, *found = ctx.saved_tensors
        output: _Output = ctx.output
        shard = output.shard(weight_VH)
        chunked = _Chunked(output.all_rows(hidden_RH), weight_VH, ctx.needs_input_grad[:2])
        for (part, logits), scores in zip(chunked, found, strict=True):
            mine = (None if one is None else per_token(one[part], scores) for one in by)
            shard.differentiate_(logits, labels_R[part].contiguous(), scores, *mine)
        by_hidden, by_weight = chunked.gradients(output)
        return by_hidden, by_weight, None, None, None


def _wide(logits: torch.Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32
