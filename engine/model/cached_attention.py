"""Attention of new tokens over what was kept of the tokens before them: keys and values in slots.

A step of generation lays the new tokens of all sequences end to end in one row: first those of
sequences with equally many (one each, or a few under speculation), then runs of a prompt. megatron-
core's attention takes them as packed documents: it hands `Positions` to our rotary embedding and
`CachedRows` to our core attention, which keeps keys and values here and attends over them. So the
model that writes is the model that is trained, down to its modules.

Shapes: T new tokens, N query heads, G key/value groups, D head dim, all of this tensor-parallel
rank; X = N / G; L cached positions; A sequences that have equally many new tokens, Q each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from megatron.core.packed_seq_params import PackedSeqParams

_FIRST = 256  # positions of a cache to begin with; it doubles


class Positions:
    """Where each new token stands in its sequence; stands in for a tensor of document starts."""

    def __init__(self, index_T: torch.Tensor) -> None:
        self.index_T = index_T
        self._found: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._ready: dict[int, torch.Tensor] = {}

    def pick(self, angles_P11R: torch.Tensor) -> torch.Tensor:
        """[T, 1, 1, R] of a table; `angles` then takes it as it is."""
        picked = angles_P11R.index_select(0, self.index_T)
        self._ready[picked.data_ptr()] = picked
        return picked

    def turns(self, angles_P11R: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(cos, sin) [T, 1, 1, R] of pairs (i, i + R/2) here; sin negative in the first half."""
        key = -angles_P11R.data_ptr()
        found = self._found.get(key)
        if found is None:
            angles = angles_P11R.index_select(0, self.index_T)
            sin = angles.sin()
            sin[..., : sin.shape[-1] // 2].neg_()
            found = self._found[key] = angles.cos(), sin
        return found

    def angles(self, angles_PR: torch.Tensor) -> torch.Tensor:
        """The rows of a table of angles [P, R] at these positions, looked up once a step."""
        key = angles_PR.data_ptr()
        if key in self._ready:
            return angles_PR
        found = self._found.get(key)
        if found is None:
            found = self._found[key] = angles_PR, angles_PR.index_select(0, self.index_T)
        return found[1]


class Segment(NamedTuple):
    """A run of a prompt: rows [start, stop) of the step are positions [first, ...) of `slot`."""

    slot: int
    start: int
    stop: int
    first: int


class Cache:
    """Keys and values of `slots` sequences for every attention module of this rank."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.capacity = 0
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def reserve(self, length: int) -> None:
        """Make room for sequences of `length` tokens; what is kept stays."""
        if length <= self.capacity:
            return
        self.capacity = max(_FIRST, self.capacity)
        while self.capacity < length:
            self.capacity *= 2
        for key, (keys, values) in self._layers.items():
            self._layers[key] = self._grown(keys), self._grown(values)

    def _grown(self, old_ALGD: torch.Tensor) -> torch.Tensor:
        slots, length, *rest = old_ALGD.shape
        new = old_ALGD.new_zeros(slots, self.capacity, *rest)
        new[:, :length] = old_ALGD
        return new

    def keep(
        self, owner: Any, key_TGD: torch.Tensor, value_TGD: torch.Tensor, index_T: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store new keys and values; gives all of `owner`'s, [slots, L, G, D] each.

        index_T: slot * capacity + position.
        """
        found = self._layers.get(id(owner))
        if found is None:
            room = self.slots, self.capacity
            found = (
                key_TGD.new_zeros(*room, *key_TGD.shape[1:]),
                value_TGD.new_zeros(*room, *value_TGD.shape[1:]),
            )
            self._layers[id(owner)] = found
        keys, values = found
        keys.view(-1, *key_TGD.shape[1:]).index_copy_(0, index_T, key_TGD)
        values.view(-1, *value_TGD.shape[1:]).index_copy_(0, index_T, value_TGD)
        return keys, values


@dataclass
class CachedRows(PackedSeqParams):
    """The new tokens of a step, and where they belong.

    slots_A, each: sequences with `each` new tokens, whose rows come first; segments: the rest.
    lengths_A: of those sequences, new tokens included.
    """

    cache: Any = None
    slots_A: tuple[int, ...] = ()
    lengths_A: tuple[int, ...] = ()
    each: int = 1
    segments: tuple[Segment, ...] = ()
    index_T: Any = None
    _masks: dict[Any, torch.Tensor | None] = field(default_factory=dict)

    @staticmethod
    def of(
        cache: Cache,
        equal: Sequence[tuple[int, int]],
        each: int,
        segments: Sequence[tuple[int, int, int]],
        table: int,
        device: Any,
    ) -> tuple[CachedRows, torch.Tensor]:
        """The rows of a step, and the position of each, int64 [T].

        equal: (slot, first position) of sequences with `each` new tokens. segments: (slot, first
        position, tokens). table: positions that a table of angles must have.
        """
        slots: list[int] = []
        positions: list[int] = []
        made: list[Segment] = []
        for slot, first in equal:
            slots += [slot] * each
            positions += range(first, first + each)
        for slot, first, count in segments:
            made.append(Segment(slot, len(slots), len(slots) + count, first))
            slots += [slot] * count
            positions += range(first, first + count)
        cache.reserve(max(positions) + 1)
        index_T = torch.tensor(positions, device=device)
        slot_T = torch.tensor(slots, device=device)
        at: Any = Positions(index_T)
        rows = CachedRows(
            qkv_format="thd",
            cu_seqlens_q=at,
            cu_seqlens_kv=at,
            max_seqlen_q=table,
            max_seqlen_kv=table,
            cache=cache,
            slots_A=tuple(slot for slot, _ in equal),
            lengths_A=tuple(first + each for _, first in equal),
            each=each,
            segments=tuple(made),
            index_T=slot_T * cache.capacity + index_T,
        )
        return rows, index_T

    def attend(
        self, owner: Any, q_TGXD: torch.Tensor, k_TGD: torch.Tensor, v_TGD: torch.Tensor
    ) -> torch.Tensor:
        """[T, N * Dv]: attention of `owner`, a `CoreAttention`, over its cache."""
        keys, values = self.cache.keep(owner, k_TGD, v_TGD, self.index_T)
        outs = []
        if self.slots_A:
            count = len(self.slots_A) * self.each
            outs.append(self._equal(owner, q_TGXD[:count], keys, values))
        for slot, start, stop, first in self.segments:
            seen = first + stop - start
            q = q_TGXD[start:stop].flatten(1, 2).unsqueeze(0).transpose(1, 2)
            k, v = (x[slot : slot + 1, :seen].transpose(1, 2) for x in (keys, values))
            outs.append(owner.attend(q, k, v)[0].transpose(0, 1).flatten(1))
        return outs[0] if len(outs) == 1 else torch.cat(outs)

    def _equal(
        self, owner: Any, q_TGXD: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        """[A * Q, N * Dv] of the sequences that have equally many new tokens.

        The X query heads of a group are attended as if they were X queries of one head: they have
        the same keys, which so are read once.
        """
        longest, count = max(self.lengths_A), len(self.slots_A)
        if self.slots_A == tuple(range(count)):
            k, v = keys[:count, :longest], values[:count, :longest]
        else:
            index = self._masked("slots", lambda: torch.tensor(self.slots_A, device=keys.device))
            assert index is not None
            k, v = (x[:, :longest].index_select(0, index) for x in (keys, values))
        _, groups, heads, dim = q_TGXD.shape
        rows = self.each * heads
        q_AQGXD = q_TGXD.unflatten(0, (count, self.each))
        q_AGRD = q_AQGXD.transpose(1, 2).reshape(count, groups, rows, dim)
        added = None if owner.softcap is not None else q_TGXD.dtype  # what is quickest for each
        key = owner.window, heads, added
        mask = self._masked(key, lambda: self._mask(*key, q_TGXD.device))
        out_AGRD = owner.attend_masked(q_AGRD, k.transpose(1, 2), v.transpose(1, 2), mask)
        out_AGQXD = out_AGRD.unflatten(2, (self.each, heads))
        return out_AGQXD.transpose(1, 2).reshape(count * self.each, -1)

    def _masked(self, key: Any, make: Callable[[], torch.Tensor | None]) -> torch.Tensor | None:
        """What all layers of a kind share, made by the first."""
        if key not in self._masks:
            self._masks[key] = make()
        return self._masks[key]

    def _mask(
        self, window: int | None, heads: int, added: torch.dtype | None, device: Any
    ) -> torch.Tensor | None:
        """[A, 1, Q * heads, L], what a query sees; None where it is everything.

        bool, or, where a dtype is given, what is added to scores.
        """
        longest = max(self.lengths_A)
        whole = self.each == 1 and min(self.lengths_A) == longest
        if whole and (window is None or window >= longest):
            return None
        last = torch.tensor(self.lengths_A, device=device).view(-1, 1, 1)
        query = last - self.each + torch.arange(self.each, device=device).view(1, -1, 1)
        key = torch.arange(longest, device=device).view(1, 1, -1)
        seen = key <= query
        if window is not None:
            seen = seen & (key > query - window)
        if self.each > 1:  # one query needs no row of its own for every head
            seen = seen.repeat_interleave(heads, 1)
        seen = seen.unsqueeze(1)
        if added is None:
            return seen
        return torch.zeros_like(seen, dtype=added).masked_fill_(~seen, -torch.inf)
