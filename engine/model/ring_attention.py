"""Attention around a ring of ranks (arXiv 2310.01889): keys and values pass, queries stay.

At each step a rank attends with its queries to the keys it has at that time and merges what it
finds by log-sum-exp; in the backward pass, the gradients of keys and values follow them around.
What is sent is sent while the step computes.

`attend` is differentiable; `ring_forward` and `ring_backward` are its passes, in layouts that
belong to whoever computes the pieces (`BlockedPieces`, `FusedPieces`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.distributed as dist

from trivium.engine.model import flash_attention
from trivium.engine.model.blocked_attention import BlockedPieces
from trivium.engine.model.flash_attention import FusedPieces
from trivium.engine.model.zigzag import Piece, ring_steps


def attend(
    q_SBND: torch.Tensor,
    k_SBGD: torch.Tensor,
    v_SBGD: torch.Tensor,
    ring: Ring,
    scale: float | None = None,
    boundaries: tuple[int, ...] | None = None,
    window: int | None = None,
) -> torch.Tensor:
    """Causal attention of rows that the ranks of `ring` hold zig-zag: [S, B, N, Dv].

    S positions of this rank, B micro-batch, N query heads, G key/value groups, D head dim, Dv of
    values. boundaries: of the documents of the one row, cumulative; window: tokens seen, the token
    itself included; scale: 1 / sqrt(D) unless given. Collective over the ring.
    """
    length = q_SBND.shape[0] * ring.size
    steps = ring_steps(ring.rank, ring.size, length, boundaries, window)
    scale = q_SBND.shape[-1] ** -0.5 if scale is None else scale
    backend: Pieces
    if flash_attention.usable(q_SBND, k_SBGD, v_SBGD):
        backend = FusedPieces(scale)
    else:
        backend = BlockedPieces(scale, k_SBGD.shape[2])
    out: torch.Tensor = _Ring.apply(q_SBND, k_SBGD, v_SBGD, ring, steps, backend)
    return out


class Pieces(Protocol):
    """Attention piece by piece, in layouts of its own: `BlockedPieces`, `FusedPieces`."""

    def queries(self, x_SBND: torch.Tensor) -> torch.Tensor: ...

    def keys(self, x_SBGD: torch.Tensor) -> torch.Tensor: ...

    def from_queries(self, x: torch.Tensor, length: int) -> torch.Tensor: ...

    def from_keys(self, x: torch.Tensor) -> torch.Tensor: ...

    def nothing(self, q: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]: ...

    def forward(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        pieces: Sequence[Piece],
        out: torch.Tensor,
        lse: torch.Tensor,
    ) -> None: ...

    def backward(
        self,
        grad: torch.Tensor,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        out: torch.Tensor,
        lse: torch.Tensor,
        pieces: Sequence[Piece],
        dq: torch.Tensor,
        dk: torch.Tensor,
        dv: torch.Tensor,
    ) -> None: ...


class Ring:
    """This rank's neighbours on the ring of a group, and what passes between them."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group
        self.rank, self.size = group.rank(), group.size()
        self.next = dist.get_global_rank(group, (self.rank + 1) % self.size)
        self.previous = dist.get_global_rank(group, (self.rank - 1) % self.size)

    def pass_on(self, tensor: torch.Tensor) -> Passing:
        """Send `tensor`, contiguous, to the next rank and receive another from the previous."""
        received = torch.empty_like(tensor)
        operations = [
            dist.P2POp(dist.isend, tensor, self.next, self.group),
            dist.P2POp(dist.irecv, received, self.previous, self.group),
        ]
        return Passing(tensor, received, dist.batch_isend_irecv(operations))


class Passing:
    """An exchange under way; it keeps what is sent until it has been."""

    def __init__(self, sent: torch.Tensor, received: torch.Tensor, works: Sequence[Any]) -> None:
        self._sent: torch.Tensor | None = sent
        self._received = received
        self._works = works

    def wait(self) -> torch.Tensor:
        """What came from the previous rank."""
        for work in self._works:
            work.wait()
        self._sent = None
        return self._received


class _Pair:
    """Two tensors in one contiguous buffer, which goes around as one message."""

    def __init__(self, one: torch.Tensor, other: torch.Tensor) -> None:
        self.shapes = one.shape, other.shape
        self.sizes = one.numel(), other.numel()

    def joined(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return torch.cat([one.reshape(-1), other.reshape(-1)])

    def parted(self, buffer: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        one, other = (
            part.view(shape)
            for part, shape in zip(buffer.split(self.sizes), self.shapes, strict=True)
        )
        return one, other


def ring_forward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    ring: Ring,
    steps: Sequence[Sequence[Piece]],
    backend: Pieces,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output (wide) and log-sum-exp of local queries over the keys of all ranks, in the layouts of
    `backend`. Collective over the ring."""
    out, lse = backend.nothing(q, v)
    pair = _Pair(k, v)
    buffer = pair.joined(k, v)
    for step, pieces in enumerate(steps):
        passing = ring.pass_on(buffer) if step + 1 < ring.size else None
        backend.forward(q, *pair.parted(buffer), pieces, out, lse)
        if passing is not None:
            buffer = passing.wait()
    return out, lse


def ring_backward(
    grad: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    ring: Ring,
    steps: Sequence[Sequence[Piece]],
    backend: Pieces,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients (wide) of queries, keys and values. Collective over the ring.

    The gradients of a rank's keys and values follow them around, a step behind, and are home after
    the last.
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    dq = torch.zeros_like(q, dtype=wide)
    pair = _Pair(k, v)
    buffer = pair.joined(k, v)
    gradients: Passing | None = None
    for step, pieces in enumerate(steps):
        passing = ring.pass_on(buffer) if step + 1 < ring.size else None
        total = torch.zeros_like(buffer, dtype=wide)
        backend.backward(grad, q, *pair.parted(buffer), out, lse, pieces, dq, *pair.parted(total))
        if gradients is not None:
            total += gradients.wait()
        if passing is not None:
            buffer = passing.wait()
        gradients = ring.pass_on(total)
    assert gradients is not None
    return dq, *pair.parted(gradients.wait())


class _Ring(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q_SBND: torch.Tensor,
        k_SBGD: torch.Tensor,
        v_SBGD: torch.Tensor,
        ring: Ring,
        steps: Sequence[Sequence[Piece]],
        backend: Pieces,
    ) -> torch.Tensor:
        q, k, v = backend.queries(q_SBND), backend.keys(k_SBGD), backend.keys(v_SBGD)
        out, lse = ring_forward(q, k, v, ring, steps, backend)
        out = out.to(q.dtype)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.ring, ctx.steps, ctx.backend, ctx.length = ring, steps, backend, q_SBND.shape[0]
        return backend.from_queries(out, q_SBND.shape[0])

    @staticmethod
    def backward(ctx: Any, grad_SBND: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        backend = ctx.backend
        grad = backend.queries(grad_SBND)
        dq, dk, dv = ring_backward(grad, q, k, v, out, lse, ctx.ring, ctx.steps, backend)
        dq = backend.from_queries(dq, ctx.length).to(q.dtype)
        return dq, *(backend.from_keys(x).to(q.dtype) for x in (dk, dv)), None, None, None
