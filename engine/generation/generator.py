"""Requests in, tokens out: continuous batching on the parallel model.

Every rank keeps the same queue and the same sequences; the first rank's new requests, and the
tokens chosen on the last pipeline stage, are what is sent around. So ranks cannot disagree, and a
step costs two small exchanges (none on one rank). A step lays the new tokens of all sequences of a
data-parallel replica end to end (`CachedRows`): prompts are read in runs beside the tokens of those
that are being written, and a request that ends makes room for the next at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from megatron.core.tensor_parallel import gather_from_tensor_model_parallel_region

from trivium.data_pipeline.errors import InputError
from trivium.data_pipeline.tokenizer import Tokenizer
from trivium.engine.forward import forward
from trivium.engine.generation.request import Answer, Event, Request, Token
from trivium.engine.generation.sampler import (
    FRESH,
    Draw,
    distribution,
    draw,
    penalized,
    scored,
    uniform,
)
from trivium.engine.generation.sequence import Writing, begin
from trivium.engine.generation.speculation import Proposer, Verifier
from trivium.engine.generation.writing import writing
from trivium.engine.mesh import Mesh
from trivium.engine.model.cached_attention import Cache, CachedRows
from trivium.engine.opened import Opened

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a generator holds: sequences at a time for each replica, and how long they may be.

    chunk: tokens of prompts that a step reads beside what is being written.
    """

    max_requests: int = 8
    max_length: int | None = None  # prompt and answer; None: the model's own
    chunk: int = 512


class Generator:
    """Writes for many requests at once. Use as a context: the model is made ready and back.

        with Generator.of(opened) as generator:
            answers = generator.run([Request(prompt=..., max_new_tokens=64)])

    `run` is the same call on every rank. To serve, the first rank calls `submit`, `cancel` and
    `step` (from one thread), and the others `follow`, until the first calls `close`.
    """

    def __init__(
        self,
        chunks: Sequence[Any],
        mesh: Mesh,
        tokenizer: Tokenizer,
        vocab_size: int,
        limits: Limits,
        proposer: Proposer | None = None,
    ) -> None:
        if limits.max_length is None:
            raise ValueError("max_length: say how long a sequence may be")
        self.chunks, self.mesh, self.tokenizer = list(chunks), mesh, tokenizer
        self.vocab_size, self.limits, self.proposer = vocab_size, limits, proposer
        self.device = torch.cuda.current_device()
        self.world = dist.get_world_size()
        layout = mesh.layout
        self.replicas = layout.dp
        # the ranks that choose: tp 0 of the last stage, one for each replica
        self.choosers = [
            rank
            for rank in range(self.world)
            if layout.coordinates(rank).tp == 0
            and layout.coordinates(rank).cp == 0
            and layout.coordinates(rank).pp == layout.pp - 1
        ]
        self.replica = mesh.dp_rank
        self.cache = Cache(limits.max_requests)
        self.waiting: deque[tuple[int, Request]] = deque()
        self.sequences: list[Writing] = []
        self._next = 0
        self._submitted: list[tuple[int, Request]] = []
        self._cancelled: list[int] = []
        self._closing = False
        self._stack: ExitStack | None = None
        # where experts are shared between replicas, none may sit a step out
        self._together = self.replicas > 1 and layout.ep > 1

    @classmethod
    def of(
        cls, opened: Opened, limits: Limits | None = None, proposer: Proposer | None = None
    ) -> Generator:
        """For an opened model; as long as it can, unless `limits` say otherwise."""
        limits = limits or Limits()
        longest = opened.config.model.max_position or 1
        length = min(limits.max_length or longest, longest)
        limits = Limits(max_requests=limits.max_requests, max_length=length, chunk=limits.chunk)
        parts = opened.chunks, opened.mesh, opened.tokenizer, opened.vocab_size
        return cls(*parts, limits, proposer)

    def __enter__(self) -> Generator:
        self._stack = ExitStack()
        self._stack.enter_context(writing(self.chunks))
        if self.proposer is not None:
            self._stack.enter_context(self.proposer.ready(self))
        return self

    def __exit__(self, *failure: object) -> None:
        assert self._stack is not None
        self._stack.close()
        self._stack = None

    # Requests

    @property
    def busy(self) -> bool:
        """Is anything being written, or waiting?"""
        return bool(self.waiting or self.sequences or self._submitted)

    def check(self, request: Request) -> None:
        """Raise InputError for a request that cannot be served."""
        longest = self.limits.max_length
        assert longest is not None
        asked = len(request.prompt) + request.max_new_tokens
        if not request.prompt:
            raise InputError("prompt: is empty; give at least one token")
        if request.max_new_tokens < 1:
            raise InputError(f"max_new_tokens={request.max_new_tokens}: must be at least 1")
        if asked > longest:
            raise InputError(
                f"prompt of {len(request.prompt)} tokens and {request.max_new_tokens} new ones: "
                f"the model takes {longest} together; shorten the prompt or ask for fewer"
            )
        if not 0 <= min(request.prompt) <= max(request.prompt) < self.vocab_size:
            raise InputError(f"prompt: token ids must be from 0 to {self.vocab_size - 1}")

    def submit(self, request: Request) -> int:
        """Queue a request; gives its number. On the first rank. InputError where it cannot be."""
        self.check(request)
        number = self._next
        self._next += 1
        self._submitted.append((number, request))
        return number

    def cancel(self, number: int) -> None:
        """Give a request up; its last event says `cancelled`. On the first rank."""
        self._cancelled.append(number)

    def run(self, requests: Sequence[Request]) -> list[Answer]:
        """Write all of them to their end; every rank gives the same and gets all. Collective."""
        if self._stack is None:
            with self:
                return self.run(requests)
        answers: dict[int, Answer] = {}
        for request in requests:
            self.check(request)
            answers[self._next] = Answer()
            self.waiting.append((self._next, request))
            self._next += 1
        while self.waiting or self.sequences:
            for event in self._advance():
                answer = answers[event.request]
                answer.tokens += event.tokens
                answer.text += "".join(token.text for token in event.tokens) + event.late
                answer.finish = event.finish
                answer.trunk_steps = event.trunk_steps
        return list(answers.values())

    def step(self) -> list[Event]:
        """One step for all that is queued; news of each request. Collective with `follow`."""
        news = self._from_first((self._submitted, self._cancelled, self._closing))
        submitted, cancelled, self._closing = news
        self._submitted, self._cancelled = [], []
        self.waiting.extend(submitted)
        if submitted:
            self._next = max(self._next, submitted[-1][0] + 1)
        events = [event for number in cancelled for event in self._drop(number)]
        return events + self._advance()

    def follow(self) -> None:
        """On every rank but the first: take part until the first closes."""
        while not self._closing:
            self.step()

    def close(self) -> None:
        """On the first rank: let the others go. Does nothing on one rank."""
        self._closing = True
        if self.world > 1:
            self.step()

    def _drop(self, number: int) -> list[Event]:
        before = len(self.waiting) + len(self.sequences)
        self.waiting = deque(one for one in self.waiting if one[0] != number)
        self.sequences = [one for one in self.sequences if one.number != number]
        after = len(self.waiting) + len(self.sequences)
        return [Event(number, (), "cancelled")] if after < before else []

    # A step

    def _advance(self) -> list[Event]:
        if self._stack is None:
            raise RuntimeError("a generator writes within its context: with Generator(...) as g")
        self._admit()
        if not self.sequences:
            return []
        plans = [
            self._plan([one for one in self.sequences if one.replica == replica])
            for replica in range(self.replicas)
        ]
        for each in plans:
            for one, _ in each.wanted():
                one.trunk_steps += 1
        plan = plans[self.replica]
        chosen: dict[int, list[Token]] = {}
        if plan.rows or self._together:
            chosen = self._write(plan)
        everyone = self._from_choosers(chosen)
        read = {number: count for each in plans for number, count in each.read.items()}
        for one in self.sequences:
            one.cached += read.get(one.number, 0)
        events = [self._take(one, everyone) for one in list(self.sequences)]
        self.sequences = [one for one in self.sequences if one.finish is None]
        if self.proposer is not None:
            going = [one for one in self.sequences if one.replica == self.replica and one.answer]
            self.proposer.propose(going, self._of_replica)
            self._share_proposals()
        return [event for event in events if event is not None]

    def _admit(self) -> None:
        """Give slots to those that wait: to the replica with most room."""
        while self.waiting:
            busy = [
                {s.slot for s in self.sequences if s.replica == r} for r in range(self.replicas)
            ]
            replica = min(range(self.replicas), key=lambda r: len(busy[r]))
            if len(busy[replica]) == self.limits.max_requests:
                return
            slot = min(set(range(self.limits.max_requests)) - busy[replica])
            number, request = self.waiting.popleft()
            self.sequences.append(begin(number, request, replica, slot, self.tokenizer))
            self.sequences.sort(key=lambda one: one.slot)

    def _plan(self, mine: Sequence[Writing]) -> _Plan:
        """Which tokens of which sequences of this replica go into the step."""
        plan = _Plan()
        each = 1 + (0 if self.proposer is None else self.proposer.depth)
        budget = self.limits.chunk
        for one in mine:
            if one.in_prompt:
                continue
            new = [one.tokens[-1], *one.proposals]
            if len(new) == each:
                plan.equal.append((one, new))
            else:
                plan.runs.append((one, new, len(new)))
        for one in mine:
            if one.in_prompt and budget:
                new = one.tokens[one.cached : one.cached + budget]
                budget -= len(new)
                ends = one.cached + len(new) == len(one.tokens)
                plan.runs.append((one, new, 1 if ends else 0))
        plan.each = each
        return plan

    def _write(self, plan: _Plan) -> dict[int, list[Token]]:
        """Pass the plan through the model; what was chosen, on the ranks of the last stage."""
        equal = [(one.slot, one.cached) for one, _ in plan.equal]
        runs = [(one.slot, one.cached, len(new)) for one, new, _ in plan.runs]
        ids = [id for _, new in plan.equal for id in new]
        ids += [id for _, new, _ in plan.runs for id in new]
        if not ids:  # nothing of this replica's, but its experts are wanted
            ids, runs = [0], [(0, 0, 1)]
        longest = max([first for _, first in equal] + [first + n for _, first, n in runs])
        self.cache.reserve(longest + plan.each)
        table = self.cache.capacity
        rows, positions = CachedRows.of(self.cache, equal, plan.each, runs, table, self.device)
        tokens = torch.tensor([ids], device=self.device)
        heads = forward(self.chunks, self.mesh, tokens, positions.unsqueeze(0), rows)
        if heads is None:
            return {}
        wanted = plan.wanted()
        index = [row for _, found in wanted for row in found]
        if self.proposer is not None:
            self.proposer.observe(plan.ends(), heads.hidden[0])
        if not index:
            return {}
        hidden = heads.hidden[0]
        if len(index) < hidden.shape[0]:
            hidden = hidden.index_select(0, torch.tensor(index, device=self.device))
        local = heads.model.project(hidden)
        logits = gather_from_tensor_model_parallel_region(local, group=self.mesh.groups.tp)
        logits = logits[:, 0, : self.vocab_size].float()
        if self.mesh.rank not in self.choosers:
            return {}
        return self._choose(wanted, logits)

    def _choose(
        self, wanted: Sequence[tuple[Writing, list[int]]], logits_RV: torch.Tensor
    ) -> dict[int, list[Token]]:
        """Tokens of each sequence: one, or as many as a speculation is right about and one more."""
        if self.proposer is not None:
            return Verifier(self.proposer).choose(wanted, logits_RV)
        draws = [
            Draw(
                one.request.sampling,
                one.request.seed,
                len(one.answer),
                one.tokens,
                one.answer,
            )
            for one, _ in wanted
        ]
        adjusted = penalized(logits_RV, draws)
        source = distribution(adjusted, [each.sampling for each in draws])
        numbers = [uniform(each.seed, each.position, FRESH) for each in draws]
        ids = draw(source, numbers).tolist()
        tops = [one.request.top_logprobs for one, _ in wanted]
        tokens = scored(logits_RV, ids, tops)
        return {one.number: [token] for (one, _), token in zip(wanted, tokens, strict=True)}

    def _take(self, one: Writing, chosen: dict[int, list[Token]]) -> Event | None:
        """Bring one sequence up to what was chosen for it."""
        if one.number not in chosen:
            return None
        tokens = chosen[one.number]
        # all tokens so far, and the proposals that came true, are in the cache now
        one.cached = len(one.tokens) + len(tokens) - 1
        added = one.take(tokens)
        late, one.written.late = one.written.late, ""
        return Event(one.number, added, one.finish, late, one.trunk_steps)

    # Exchange

    def _from_first(self, value: T) -> T:
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def _from_choosers(self, chosen: dict[int, list[Token]]) -> dict[int, list[Token]]:
        """What every replica has chosen, on every rank."""
        if self.world == 1:
            return chosen
        if len(self.choosers) == 1:
            box: list[Any] = [chosen]
            dist.broadcast_object_list(box, src=self.choosers[0])
            return box[0]
        boxes: list[Any] = [None] * self.world
        dist.all_gather_object(boxes, chosen)
        return {number: tokens for box in boxes for number, tokens in box.items()}

    def _of_replica(self, value: T) -> T:
        """The chooser's value, on every rank of its replica."""
        return value if self.world == 1 else self._replica_broadcast(value)

    def _replica_broadcast(self, value: T) -> T:
        if len(self.choosers) == 1:
            box: list[Any] = [value]
            dist.broadcast_object_list(box, src=self.choosers[0])
            return box[0]
        boxes: list[Any] = [None] * self.world
        dist.all_gather_object(boxes, value)
        return boxes[self.choosers[self.replica]]

    def _share_proposals(self) -> None:
        """Every rank knows the proposals of every replica's sequences."""
        if self.replicas == 1:
            return
        mine = {s.number: s.proposals for s in self.sequences if s.replica == self.replica}
        boxes: list[Any] = [None] * self.world
        dist.all_gather_object(boxes, mine)
        known = {number: found for box in boxes for number, found in box.items()}
        for one in self.sequences:
            one.proposals = known.get(one.number, [])


class _Plan:
    """The tokens of a step: of sequences that have equally many, and runs of others.

    A run is (sequence, tokens, how many of its last rows get logits).
    """

    def __init__(self) -> None:
        self.equal: list[tuple[Writing, list[int]]] = []
        self.runs: list[tuple[Writing, list[int], int]] = []
        self.each = 1

    @property
    def rows(self) -> int:
        return len(self.equal) + len(self.runs)

    @property
    def read(self) -> dict[int, int]:
        """Positions of a prompt that the step has put into the cache, by sequence."""
        return {one.number: len(new) for one, new, last in self.runs if one.in_prompt}

    def ends(self) -> list[tuple[Writing, int, int]]:
        """(sequence, first row, one past its last row) of everything in the step."""
        found, at = [], 0
        for one, new in self.equal:
            found.append((one, at, at + len(new)))
            at += len(new)
        for one, new, _ in self.runs:
            found.append((one, at, at + len(new)))
            at += len(new)
        return found

    def wanted(self) -> list[tuple[Writing, list[int]]]:
        """Sequences that get tokens, with the rows whose logits choose them."""
        found = []
        last = {id(one): count for one, _, count in self.runs}
        for one, start, stop in self.ends():
            count = last.get(id(one), stop - start)
            if count:
                found.append((one, list(range(stop - count, stop))))
        return found
