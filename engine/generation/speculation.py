"""Speculative decoding: several tokens from one pass of the trunk, with the trunk's distribution.

A proposer names the next few tokens; the trunk scores all of them in one pass; each is kept with
probability min(1, p/q), and the first that is not is replaced by a draw from (p - q)+ (Leviathan et
al., arXiv 2211.17192, algorithm 1). p and q are what would be drawn from, behind temperature and
cuts, so what comes out has exactly the distribution p; greedy output is the trunk's, token by
token.

Proposers: the model's own MTP heads (DeepSeek-V3, arXiv 2412.19437, section 2.2), and another
model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from megatron.core.tensor_parallel import gather_from_tensor_model_parallel_region

from trivium.data_pipeline.errors import InputError
from trivium.engine.forward import forward
from trivium.engine.generation.request import Token
from trivium.engine.generation.sampler import (
    ACCEPT,
    FRESH,
    PROPOSE,
    Distribution,
    Draw,
    distribution,
    draw,
    penalized,
    scored,
    uniform,
)
from trivium.engine.generation.sequence import Writing
from trivium.engine.generation.writing import writing
from trivium.engine.model.cached_attention import Cache, CachedRows
from trivium.engine.opened import Opened

Share = Callable[[Any], Any]


class Proposer(Protocol):
    """Names tokens that may come next, `depth` of them for each sequence.

    proposed: by number of a sequence, what each proposal was drawn from, [depth, V]; on the rank
    that chooses.
    """

    depth: int
    proposed: dict[int, torch.Tensor]

    def ready(self, generator: Any) -> Any:
        """A context in which `generator` writes."""

    def observe(self, ends: Sequence[tuple[Writing, int, int]], hidden_T1H: torch.Tensor) -> None:
        """The trunk's output for the rows of a step; on the ranks of the last stage."""

    def propose(self, sequences: Sequence[Writing], share: Share) -> None:
        """Set `proposals` of those sequences of this replica that go on. Collective over it."""


class Verifier:
    """Chooses tokens where there are proposals."""

    def __init__(self, proposer: Proposer) -> None:
        self.proposer = proposer

    def choose(
        self, wanted: Sequence[tuple[Writing, list[int]]], logits_RV: torch.Tensor
    ) -> dict[int, list[Token]]:
        """The proposals that hold, and one token more, for each sequence."""
        draws = [each for one, rows in wanted for each in _draws(one, len(rows))]
        adjusted = penalized(logits_RV, draws)
        source = distribution(adjusted, [each.sampling for each in draws])
        fresh = [uniform(each.seed, each.position, FRESH) for each in draws]
        # what a row gives if nothing was proposed for it, or all before it held
        plain = draw(source, fresh).tolist()
        ids: list[int] = []
        rows_kept: list[int] = []
        tops: list[int] = []
        counts: dict[int, int] = {}
        at = 0
        for one, rows in wanted:
            chosen = self._accepted(one, source, at, len(rows), plain, draws)
            ids += chosen
            counts[one.number] = len(chosen)
            rows_kept += range(at, at + len(chosen))
            tops += [one.request.top_logprobs] * len(chosen)
            at += len(rows)
        index = torch.tensor(rows_kept, device=logits_RV.device)
        tokens = iter(scored(logits_RV.index_select(0, index), ids, tops))
        return {number: [next(tokens) for _ in range(count)] for number, count in counts.items()}

    def _accepted(
        self,
        one: Writing,
        source: Distribution,
        at: int,
        count: int,
        plain: Sequence[int],
        draws: Sequence[Draw],
    ) -> list[int]:
        """Token ids that the rows [at, at + count) give; at least one."""
        chosen: list[int] = []
        asked = self.proposer.proposed.get(one.number)
        for depth in range(count):
            row = at + depth
            last = depth == count - 1
            if last or asked is None:
                chosen.append(plain[row])
                break
            id = one.proposals[depth]
            one_draw = draws[row]
            if one_draw.sampling.temperature == 0:
                chosen.append(plain[row])
                if plain[row] != id:
                    break
                continue
            p_V = _row(source, row, asked.shape[1])
            q_V = asked[depth]
            number = uniform(one_draw.seed, one_draw.position, ACCEPT)
            if number * float(q_V[id]) < float(p_V[id]):
                chosen.append(id)
                continue
            rest = (p_V - q_V).clamp(min=0).unsqueeze(0)
            fresh = uniform(one_draw.seed, one_draw.position, FRESH)
            if float(rest.sum()) <= 0:  # p equals q: only rounding comes here
                chosen.append(plain[row])
            else:
                chosen.append(int(draw(Distribution(rest, None), [fresh])))
            break
        return chosen


def _row(source: Distribution, row: int, vocab_size: int) -> torch.Tensor:
    """Probabilities [V] of one row."""
    ids = None if source.ids_RC is None else source.ids_RC[row : row + 1]
    return Distribution(source.probs_RC[row : row + 1], ids).dense(vocab_size)[0]


def _draws(one: Writing, count: int) -> list[Draw]:
    """What the choices of a sequence's rows depend on: each sees the proposals before it."""
    request, made = one.request, []
    for depth in range(count):
        ahead = one.proposals[:depth]
        made.append(
            Draw(
                request.sampling,
                request.seed,
                len(one.answer) + depth,
                [*one.tokens, *ahead] if ahead else one.tokens,
                [*one.answer, *ahead] if ahead else one.answer,
            )
        )
    return made


class _Base:
    """What proposers share: drawing a proposal, and keeping what it was drawn from."""

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.proposed: dict[int, torch.Tensor] = {}
        self.generator: Any = None

    def observe(self, ends: Sequence[tuple[Writing, int, int]], hidden_T1H: torch.Tensor) -> None:
        """The trunk's output, which a proposer of its own has no use for."""

    def _draw(
        self, sequences: Sequence[Writing], logits_RV: torch.Tensor, ahead: Sequence[list[int]]
    ) -> tuple[list[int], torch.Tensor]:
        """A proposal for each sequence behind those it has; what they were drawn from, [R, V]."""
        draws = []
        for one, before in zip(sequences, ahead, strict=True):
            request = one.request
            seen, answer = [*one.tokens, *before], [*one.answer, *before]
            position = len(answer)
            draws.append(Draw(request.sampling, request.seed, position, seen, answer))
        source = distribution(penalized(logits_RV, draws), [each.sampling for each in draws])
        numbers = [uniform(each.seed, each.position, PROPOSE) for each in draws]
        return draw(source, numbers).tolist(), source.dense(logits_RV.shape[1])

    def _logits(self, model: Any, hidden_R1H: torch.Tensor) -> torch.Tensor:
        """fp32 [R, V] of the ids that may be drawn, on every rank of tp."""
        local = model.project(hidden_R1H)
        group = self.generator.mesh.groups.tp
        whole = gather_from_tensor_model_parallel_region(local, group=group)
        return whole[:, 0, : self.generator.vocab_size].float()


class MTPProposer(_Base):
    """The model's own MTP heads.

    Head d (from 1) at position i takes what head d - 1 (0: the trunk) made of it, and the token at
    i + d, and proposes the token at i + d + 1. Each head has a cache of its own. With more
    proposals than heads, the last head goes on from its own output, a position further each time.
    Rows that were computed from a proposal are computed again from the token that came.
    """

    def __init__(self, depth: int, heads: int) -> None:
        if not heads:
            raise InputError("speculation: the model has no MTP heads; give a draft model instead")
        super().__init__(depth)
        self.heads = heads

    @contextmanager
    def ready(self, generator: Any) -> Iterator[None]:
        """In this context `generator` writes, and heads have their caches."""
        self.generator = generator
        slots = generator.limits.max_requests
        self._caches = [Cache(slots) for _ in range(self.heads)]
        # by number of a sequence, for every head: what its next rows take as input [rows, 1, H],
        # and the position of the first of them
        self._inputs: dict[int, list[tuple[torch.Tensor, int]]] = {}
        yield
        self.proposed = {}

    def observe(self, ends: Sequence[tuple[Writing, int, int]], hidden_T1H: torch.Tensor) -> None:
        """Keep the trunk's rows until it is known which of them hold."""
        for one, start, stop in ends:
            rows = hidden_T1H[start:stop]
            found = self._inputs.get(one.number)
            if found is None:
                empty = rows[:0]
                self._inputs[one.number] = [(rows, one.cached)] + [
                    (empty, 0) for _ in range(self.heads - 1)
                ]
            else:
                before, first = found[0]
                kept = before[: max(0, one.cached - first)]
                found[0] = (torch.cat([kept, rows]) if len(kept) else rows, min(first, one.cached))

    def propose(self, sequences: Sequence[Writing], share: Share) -> None:
        """One pass of each head over the rows that are new to it."""
        proposals: dict[int, list[int]] = {}
        self.proposed = {}
        if self.generator.mesh.is_last_stage:
            going = {one.number for one in self.generator.sequences}  # those in a prompt as well
            self._inputs = {n: found for n, found in self._inputs.items() if n in going}
            if sequences:
                proposals = self._run(sequences)
        found = share(proposals)
        for one in sequences:
            one.proposals = found.get(one.number, [])

    def _run(self, sequences: Sequence[Writing]) -> dict[int, list[int]]:
        ahead: list[list[int]] = [[] for _ in sequences]
        drawn: list[torch.Tensor] = []
        model = self.generator.chunks[-1]
        last: list[torch.Tensor] = []  # of every sequence, the last head's last row
        for depth in range(self.depth):
            head = min(depth, self.heads - 1)
            beyond = depth - head  # how often the last head has gone on from itself
            inputs, runs, ids = [], [], []
            for at, one in enumerate(sequences):
                known = [*one.tokens, *ahead[at]]
                if beyond:
                    rows, first = last[at], len(one.tokens) - 2 + beyond
                else:
                    rows, first = self._rows_of(one, head)
                inputs.append(rows)
                runs.append((one.slot, first, rows.shape[0]))
                shift = head + 1
                ids += known[first + shift : first + shift + rows.shape[0]]
            out = self._pass(model, head, torch.cat(inputs), runs, ids)
            pieces = out.split([count for _, _, count in runs])
            last = [piece[-1:] for piece in pieces]
            if not beyond:
                for one, piece, (_, first, _) in zip(sequences, pieces, runs, strict=True):
                    self._hand_on(one, head, piece, first)
            logits = self._logits(model, torch.cat(last))
            chosen, probs_RV = self._draw(sequences, logits, ahead)
            drawn.append(probs_RV)
            for at, id in enumerate(chosen):
                ahead[at].append(id)
        for at, one in enumerate(sequences):
            self.proposed[one.number] = torch.stack([probs[at] for probs in drawn])
        return {one.number: ahead[at] for at, one in enumerate(sequences)}

    def _rows_of(self, one: Writing, head: int) -> tuple[torch.Tensor, int]:
        """Inputs of `head` up to the last position that the trunk has seen."""
        rows, first = self._inputs[one.number][head]
        if head == 0:
            rows = rows[
                : one.cached - first
            ]  # what lies behind came of proposals that did not hold
        return rows, first

    def _hand_on(self, one: Writing, head: int, out: torch.Tensor, first: int) -> None:
        """Leave what will be needed again: the last `head + 1` rows rest on proposals.

        Of head d's rows (from 1), the last d - 1 took a proposal as their token: they are computed
        again when it is known. So their inputs stay, and so do those of the next head.
        """
        found = self._inputs[one.number]
        rows, _ = found[head] if head else (self._rows_of(one, 0)[0], first)
        end = first + rows.shape[0]
        keep = min(rows.shape[0], head)
        found[head] = (rows[rows.shape[0] - keep :], end - keep)
        if head + 1 < self.heads:
            before, at = found[head + 1]
            kept = before[: max(0, first - at)]
            found[head + 1] = (
                torch.cat([kept, out]) if len(kept) else out,
                at if len(kept) else first,
            )

    def _pass(
        self,
        model: Any,
        head: int,
        inputs_T1H: torch.Tensor,
        runs: Sequence[tuple[int, int, int]],
        ids: Sequence[int],
    ) -> torch.Tensor:
        """[T, 1, H] of one head; runs: (slot, first position, rows) of every sequence."""
        cache, device = self._caches[head], inputs_T1H.device
        cache.reserve(max(first + count for _, first, count in runs) + 1)
        if all(count == 1 for _, _, count in runs):
            pairs = [(slot, first) for slot, first, _ in runs]
            rows, positions = CachedRows.of(cache, pairs, 1, [], cache.capacity, device)
        else:
            rows, positions = CachedRows.of(cache, [], 1, runs, cache.capacity, device)
        tokens = torch.tensor([list(ids)], device=device)
        return model.prediction_head(head, inputs_T1H, tokens, positions.unsqueeze(0), rows)


class DraftProposer(_Base):
    """Another model with the same vocabulary, cut over the same ranks in the same way."""

    def __init__(self, depth: int, draft: Opened) -> None:
        super().__init__(depth)
        self.draft = draft

    @contextmanager
    def ready(self, generator: Any) -> Iterator[None]:
        """In this context `generator` writes, and the draft has its cache."""
        ours, theirs = generator.vocab_size, self.draft.vocab_size
        if ours != theirs:
            raise InputError(
                f"{self.draft.source}: has {theirs} tokens, the model it drafts for {ours}; give "
                "one with the same tokenizer"
            )
        self.generator = generator
        self._cache = Cache(generator.limits.max_requests)
        self._seen: dict[int, list[int]] = {}  # tokens in the cache, by number
        with writing(self.draft.chunks):
            yield
        self.proposed = {}

    def propose(self, sequences: Sequence[Writing], share: Share) -> None:
        """`depth` passes of the draft, the first over all that is new to it."""
        self.proposed = {}
        going = {one.number for one in sequences}
        self._seen = {n: tokens for n, tokens in self._seen.items() if n in going}
        ahead: list[list[int]] = [[] for _ in sequences]
        drawn: list[torch.Tensor] = []
        for _ in range(self.depth):
            logits = self._pass(sequences, ahead) if sequences else None
            chosen: list[int] = []
            if logits is not None:
                chosen, probs_RV = self._draw(sequences, logits, ahead)
                drawn.append(probs_RV)
            for at, id in enumerate(share(chosen)[: len(sequences)]):
                ahead[at].append(id)
        for at, one in enumerate(sequences):
            one.proposals = ahead[at]
            if drawn:
                self.proposed[one.number] = torch.stack([probs[at] for probs in drawn])

    def _pass(self, sequences: Sequence[Writing], ahead: Sequence[list[int]]) -> Any:
        """Logits [R, V] behind each sequence's tokens and proposals; None but on the last stage."""
        runs, ids = [], []
        for one, more in zip(sequences, ahead, strict=True):
            known = [*one.tokens, *more]
            seen = self._seen.get(one.number, [])
            same = _common(seen, known)
            new = known[same:] or known[-1:]
            first = len(known) - len(new)
            runs.append((one.slot, first, len(new)))
            ids += new
            self._seen[one.number] = known
        cache, device = self._cache, self.generator.device
        cache.reserve(max(first + count for _, first, count in runs))
        if all(count == 1 for _, _, count in runs):
            pairs = [(slot, first) for slot, first, _ in runs]
            rows, positions = CachedRows.of(cache, pairs, 1, [], cache.capacity, device)
        else:
            rows, positions = CachedRows.of(cache, [], 1, runs, cache.capacity, device)
        tokens = torch.tensor([ids], device=device)
        heads = forward(
            self.draft.chunks, self.generator.mesh, tokens, positions.unsqueeze(0), rows
        )
        if heads is None:
            return None
        ends = torch.tensor([count for _, _, count in runs]).cumsum(0) - 1
        return self._logits(heads.model, heads.hidden[0].index_select(0, ends.to(device)))


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    """Length of the beginning that both share."""
    for at, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return at
    return min(len(left), len(right))
