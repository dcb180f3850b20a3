"""The choice of tokens from logits: cuts, draws that belong to a request, log-probabilities.

A draw is a function of the request's seed, the position in its answer and its purpose, so an answer
does not depend on who else is in the batch, nor on the layout.

Shapes: R rows (one for each token to choose), V vocabulary, C candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from trivium.engine.generation.request import Sampling, Token

_FEW = 1024  # candidates that are sorted first, where a cut may leave more
_MASK = 2**64 - 1

# what a draw is for
FRESH, ACCEPT, PROPOSE = 0, 1, 2


@dataclass(frozen=True)
class Draw:
    """What the choice of one token depends on beside its logits.

    seen, answer: tokens of prompt and answer, and of the answer alone; they are looked at where a
    penalty asks for them.
    """

    sampling: Sampling
    seed: int
    position: int  # in the answer
    seen: Sequence[int] = ()
    answer: Sequence[int] = ()


@dataclass(frozen=True)
class Distribution:
    """What is drawn from: probabilities [R, C] that sum to 1, of ids [R, C] (None: all, in order).

    Likeliest first where there are ids.
    """

    probs_RC: torch.Tensor
    ids_RC: torch.Tensor | None

    def dense(self, vocab_size: int) -> torch.Tensor:
        """[R, V]."""
        if self.ids_RC is None:
            return self.probs_RC
        whole = self.probs_RC.new_zeros(self.probs_RC.shape[0], vocab_size)
        return whole.scatter_(1, self.ids_RC, self.probs_RC)


def uniform(seed: int, position: int, purpose: int) -> float:
    """In [0, 1), by splitmix64 (Steele, Lea, Flood 2014) of a counter in the seed's stream."""
    z = (seed * 0xD1342543DE82EF95 + (position * 3 + purpose + 1) * 0x9E3779B97F4A7C15) & _MASK
    for _ in range(2):  # twice: seeds and positions are small numbers
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        z ^= z >> 31
    return (z >> 11) / 2**53


def penalized(logits_RV: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
    """Logits [R, V] with the penalties of every row; the same tensor where there are none."""
    changed = False
    for row, draw in enumerate(draws):
        sampling = draw.sampling
        plain = sampling.repetition_penalty == 1.0
        if plain and not sampling.frequency_penalty and not sampling.presence_penalty:
            continue
        if not changed:
            logits_RV, changed = logits_RV.clone(), True
        line = logits_RV[row]
        if not plain:
            seen = torch.tensor(sorted(set(draw.seen)), device=line.device)
            values = line[seen]
            factor = sampling.repetition_penalty
            line[seen] = torch.where(values > 0, values / factor, values * factor)
        if draw.answer and (sampling.frequency_penalty or sampling.presence_penalty):
            ids, counts = torch.tensor(draw.answer, device=line.device).unique(return_counts=True)
            line[ids] -= counts * sampling.frequency_penalty + sampling.presence_penalty
    return logits_RV


def distribution(logits_RV: torch.Tensor, samplings: Sequence[Sampling]) -> Distribution:
    """What each row draws from, after temperature, top-k, top-p and min-p in this order.

    logits: fp32 [R, V], penalties applied.
    """
    if all(sampling.temperature == 0 for sampling in samplings):
        ids_RC = logits_RV.argmax(1, keepdim=True)
        return Distribution(torch.ones_like(ids_RC, dtype=torch.float32), ids_RC)
    device, vocab_size = logits_RV.device, logits_RV.shape[1]
    # temperature 0 keeps the likeliest alone
    temperatures = [sampling.temperature or 1.0 for sampling in samplings]
    top_k = [1 if s.temperature == 0 else s.top_k or vocab_size for s in samplings]
    scaled_RV = logits_RV / torch.tensor(temperatures, device=device).unsqueeze(1)
    cut = any(s.top_k or s.top_p < 1 or s.min_p or s.temperature == 0 for s in samplings)
    if not cut:
        return Distribution(scaled_RV.softmax(1), None)
    largest = max((k for k in top_k if k < vocab_size), default=0)
    count = min(vocab_size, max(_FEW, largest))
    found = _cut(scaled_RV, samplings, top_k, count)
    if found is None:
        found = _cut(scaled_RV, samplings, top_k, vocab_size)
    assert found is not None
    return found


def _cut(
    scaled_RV: torch.Tensor, samplings: Sequence[Sampling], top_k: Sequence[int], count: int
) -> Distribution | None:
    """Cut among the `count` likeliest; None where a row may want more of them."""
    device, vocab_size = scaled_RV.device, scaled_RV.shape[1]
    values_RC, ids_RC = scaled_RV.topk(count, dim=1)
    most = torch.tensor([min(k, vocab_size) for k in top_k], device=device).unsqueeze(1)
    rank = torch.arange(count, device=device).unsqueeze(0)
    values_RC = values_RC.masked_fill(rank >= most, -torch.inf)
    # the sum over what top-k left: over all of the vocabulary where it does not cut
    partial = values_RC.logsumexp(1, keepdim=True)
    total = torch.where(most >= vocab_size, scaled_RV.logsumexp(1, keepdim=True), partial)
    probs_RC = (values_RC - total).exp()
    before = probs_RC.cumsum(1) - probs_RC
    top_p = torch.tensor([s.top_p for s in samplings], device=device).unsqueeze(1)
    min_p = torch.tensor([s.min_p for s in samplings], device=device).unsqueeze(1)
    keep = (rank == 0) | ((before < top_p) & (probs_RC >= min_p * probs_RC[:, :1]))
    if count < vocab_size and bool((keep[:, -1:] & (most > count)).any()):
        return None
    probs_RC = probs_RC.masked_fill(~keep, 0.0)
    return Distribution(probs_RC / probs_RC.sum(1, keepdim=True), ids_RC)


def draw(source: Distribution, numbers: Sequence[float]) -> torch.Tensor:
    """Ids [R], by the inverse of the cumulative distribution at uniform `numbers`."""
    probs_RC, ids_RC = source.probs_RC, source.ids_RC
    if probs_RC.shape[1] == 1:
        assert ids_RC is not None
        return ids_RC[:, 0]
    sums_RC = probs_RC.double().cumsum(1)
    at = torch.tensor(numbers, dtype=torch.float64, device=probs_RC.device).unsqueeze(1)
    chosen = torch.searchsorted(sums_RC, at * sums_RC[:, -1:], right=True)
    # rounding must not choose what has no probability: step back to the last that has some
    last = (probs_RC > 0).long() * torch.arange(probs_RC.shape[1], device=probs_RC.device)
    chosen = torch.minimum(chosen, last.max(1, keepdim=True).values)
    return (chosen if ids_RC is None else ids_RC.gather(1, chosen))[:, 0]


def scored(logits_RV: torch.Tensor, ids: Sequence[int], tops: Sequence[int]) -> list[Token]:
    """Tokens with log-probabilities by the logits as they are, and so many of the likeliest."""
    index = torch.tensor(ids, device=logits_RV.device).unsqueeze(1)
    total_R = logits_RV.logsumexp(1)
    values = (logits_RV.gather(1, index)[:, 0] - total_R).tolist()
    most = max(tops, default=0)
    best: list[list[tuple[int, float]]] = [[] for _ in ids]
    if most:
        top_RC, id_RC = logits_RV.topk(min(most, logits_RV.shape[1]), dim=1)
        rows = (top_RC - total_R.unsqueeze(1)).tolist(), id_RC.tolist()
        best = [list(zip(i, v, strict=True)) for v, i in zip(*rows, strict=True)]
    return [
        Token(id=id, logprob=value, top=tuple(line[:top]))
        for id, value, line, top in zip(ids, values, best, tops, strict=True)
    ]
