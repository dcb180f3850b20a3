"""Log-likelihoods of tokens on the parallel model, without a cache.

Texts are laid end to end in one row, as training lays documents, so that nothing is padded; only
rows whose tokens are asked for go through the output layer. Batches are dealt to data-parallel
replicas. The figures are those of the training forward pass, under every layout.

Shapes: T tokens of a batch, R rows that are scored, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
import torch.distributed as dist

from trivium.engine.forward import forward
from trivium.engine.generation.writing import writing
from trivium.engine.model.attention import Documents
from trivium.engine.opened import Opened

_ROWS = 256  # that go through the output layer at a time


@dataclass(frozen=True)
class Text:
    """Token ids, of which the last `scored` are asked for; each needs a token before it."""

    ids: tuple[int, ...]
    scored: int


@dataclass(frozen=True)
class Scores:
    """Of each token that was asked for: its log-probability, and whether no token is likelier."""

    logprobs: tuple[float, ...]
    likeliest: tuple[bool, ...]

    @property
    def sum(self) -> float:
        """Log-likelihood of all of them."""
        return float(sum(self.logprobs))


def score(
    opened: Opened,
    texts: Sequence[Text],
    batch_tokens: int = 4096,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> list[Scores]:
    """Score `texts`, in their order. Every rank gives the same and gets all. Collective.

    batch_tokens: of a batch, but for a text that is longer by itself. told: of texts done, and all.
    """
    for text in texts:
        if not 0 < text.scored < len(text.ids):
            raise ValueError(f"{text.scored} of {len(text.ids)} tokens: each needs one before it")
    batches = _batches(texts, batch_tokens)
    mesh = opened.mesh
    replicas = mesh.layout.dp
    together = replicas > 1 and mesh.layout.ep > 1
    found: dict[int, Scores] = {}
    done = 0
    with writing(opened.chunks):
        for start in range(0, len(batches), replicas):
            turn = batches[start : start + replicas]
            if mesh.dp_rank < len(turn):
                found |= _batch(opened, texts, turn[mesh.dp_rank])
            elif together:  # the experts of this replica are wanted by the others
                _batch(opened, texts, turn[0])
            done += sum(map(len, turn))
            told(done, len(texts))
    everything: list[Any] = [found]
    if dist.get_world_size() > 1:
        everything = [None] * dist.get_world_size()
        dist.all_gather_object(everything, found)
    whole = {index: scores for part in everything for index, scores in part.items()}
    return [whole[index] for index in range(len(texts))]


def _batches(texts: Sequence[Text], batch_tokens: int) -> list[list[int]]:
    """Indices of texts, longest first, so that a batch that does not fit fails at once."""
    order = sorted(range(len(texts)), key=lambda index: -len(texts[index].ids))
    batches: list[list[int]] = []
    room = 0
    for index in order:
        length = len(texts[index].ids) - 1
        if not batches or length > room:
            batches.append([])
            room = max(batch_tokens, length)
        batches[-1].append(index)
        room -= length
    return batches


def _batch(opened: Opened, texts: Sequence[Text], batch: Sequence[int]) -> dict[int, Scores]:
    """Scores of some texts on the last stage; elsewhere nothing."""
    device = torch.cuda.current_device()
    chosen = [texts[index] for index in batch]
    lengths = [len(text.ids) - 1 for text in chosen]  # the last token predicts nothing here
    tokens = torch.tensor([[id for text in chosen for id in text.ids[:-1]]], device=device)
    positions = torch.cat([torch.arange(length, device=device) for length in lengths])
    rows = Documents.of((0, *accumulate(lengths)), device)
    heads = forward(opened.chunks, opened.mesh, tokens, positions.unsqueeze(0), rows)
    if heads is None:
        return {}
    ends = accumulate(lengths)
    index = [row for text, end in zip(chosen, ends, strict=True) for row in _last(end, text.scored)]
    labels = torch.tensor([id for text in chosen for id in text.ids[-text.scored :]], device=device)
    hidden = heads.hidden[0].index_select(0, torch.tensor(index, device=device))
    vocab_size = opened.config.model.vocab_size
    assert vocab_size is not None
    values: list[float] = []
    best: list[bool] = []
    for start in range(0, len(index), _ROWS):
        logits_RV = heads.model.project(hidden[start : start + _ROWS])[:, 0].float()
        found_R, likeliest_R = _labelled(
            logits_RV, labels[start : start + _ROWS], opened.mesh.groups.tp, vocab_size
        )
        values += found_R.tolist()
        best += likeliest_R.tolist()
    made: dict[int, Scores] = {}
    at = 0
    for number, text in zip(batch, chosen, strict=True):
        stop = at + text.scored
        made[number] = Scores(tuple(values[at:stop]), tuple(best[at:stop]))
        at = stop
    return made


def _labelled(
    logits_RV: torch.Tensor, labels_R: torch.Tensor, group: dist.ProcessGroup, vocab_size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(log p(label), is no token likelier), [R] each; columns are split over `group`.

    Columns from `vocab_size` on are padding and take no part. Collective over tp: three numbers for
    each row, never the logits.
    """
    columns = logits_RV.shape[1]
    first = dist.get_rank(group) * columns
    logits_RV[:, max(0, vocab_size - first) :] = -torch.inf
    place_R = labels_R - first
    mine_R = (place_R >= 0) & (place_R < columns)
    index_R1 = place_R.clamp(0, columns - 1).unsqueeze(1)
    label_R = torch.where(mine_R, logits_RV.gather(1, index_R1)[:, 0], 0.0)
    most_R = logits_RV.amax(1)
    dist.all_reduce(label_R, group=group)
    dist.all_reduce(most_R, op=dist.ReduceOp.MAX, group=group)
    sum_R = (logits_RV - most_R.unsqueeze(1)).exp().sum(1)
    dist.all_reduce(sum_R, group=group)
    return label_R - most_R - sum_R.log(), label_R >= most_R


def _last(end: int, count: int) -> range:
    return range(end - count, end)
