"""Attention over a row that is split among ranks: the axis cp.

Ranks hold a row zig-zag (`zigzag.py`), and everything but attention is local to a token. Two ways
of attention, equal to that of the whole row:

`RingAttention` (`ring_attention.py`): keys and values go around the ring of ranks. Any number of
heads; what is sent is hidden behind the computation where rows are long.

`AllToAllAttention` (DeepSpeed-Ulysses, arXiv 2309.14509): heads are exchanged for positions, so
that a rank has whole rows of some heads. Less to send; cp must divide the heads.

Shapes: S positions of this rank, T of the row, B micro-batch, N query heads, G key/value groups,
D head dim, Dv of values. Documents laid end to end are one row: B is 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.transformer import multi_token_prediction

from trivium.engine.model import ring_attention
from trivium.engine.model.ring_attention import Ring
from trivium.engine.model.zigzag import held

# attention of whole rows: queries, keys, values, boundaries of documents
Whole = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, "tuple[int, ...] | None"], torch.Tensor]


def split(x: torch.Tensor, rank: int, size: int, dim: int = 1) -> torch.Tensor:
    """What `rank` of `size` holds of a tensor whose dimension `dim` is the row."""
    if size == 1:
        return x
    first, second = held(rank, size, x.shape[dim])
    parts = [x.narrow(dim, part.start, len(part)) for part in (first, second)]
    return torch.cat(parts, dim)


class RingAttention:
    """Causal attention by a ring over the ranks of `group`."""

    def __init__(self, group: dist.ProcessGroup, scale: float | None, window: int | None) -> None:
        self.ring = Ring(group)
        self.scale = scale
        self.window = window

    def __call__(
        self,
        q_SBND: torch.Tensor,
        k_SBGD: torch.Tensor,
        v_SBGD: torch.Tensor,
        boundaries: tuple[int, ...] | None,
        whole: Whole,
    ) -> torch.Tensor:
        """[S, B, N, D], [S, B, G, D], [S, B, G, Dv] -> [S, B, N, Dv]. Collective over cp."""
        del whole
        return ring_attention.attend(
            q_SBND, k_SBGD, v_SBGD, self.ring, self.scale, boundaries, self.window
        )


class AllToAllAttention:
    """Causal attention of whole rows of some heads, which the ranks of `group` exchange."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group

    def __call__(
        self,
        q_SBND: torch.Tensor,
        k_SBGD: torch.Tensor,
        v_SBGD: torch.Tensor,
        boundaries: tuple[int, ...] | None,
        whole: Whole,
    ) -> torch.Tensor:
        """[S, B, N, D], [S, B, G, D], [S, B, G, Dv] -> [S, B, N, Dv]. Collective over cp.

        cp must divide N, and G or be a multiple of G: then every rank gets a copy of its group.
        """
        size = self.group.size()
        copies = max(1, size // k_SBGD.shape[2])
        if copies > 1:
            k_SBGD, v_SBGD = (x.repeat_interleave(copies, dim=2) for x in (k_SBGD, v_SBGD))
        q_TBnD, k_TBgD, v_TBgD = _heads_to_rows([q_SBND, k_SBGD, v_SBGD], self.group)
        return _rows_to_heads(whole(q_TBnD, k_TBgD, v_TBgD, boundaries), self.group)


def _heads_to_rows(
    tensors: Sequence[torch.Tensor], group: dist.ProcessGroup
) -> Iterator[torch.Tensor]:
    """[S, B, heads, D] of this rank's positions -> [T, B, heads / cp, D] of all, in their order."""
    size = group.size()
    columns, shapes = [], []
    for x in tensors:
        by_rank = x.unflatten(2, (size, -1)).permute(2, 0, 1, 3, 4)  # of its heads
        shapes.append(by_rank.shape)
        columns.append(by_rank.reshape(size, -1))
    received: torch.Tensor = _AllToAll.apply(torch.cat(columns, dim=1), group)
    parts = received.split([column.shape[1] for column in columns], dim=1)
    for part, shape in zip(parts, shapes, strict=True):
        by_chunk = part.reshape(size, 2, -1, *shape[2:])  # of its positions
        yield torch.cat([by_chunk[:, 0], by_chunk[:, 1].flip(0)]).flatten(0, 1)


def _rows_to_heads(x_TBnD: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """The inverse: [T, B, heads / cp, D] -> [S, B, heads, D]."""
    size = group.size()
    first, second = x_TBnD.unflatten(0, (2, size, -1))
    by_rank = torch.stack([first, second.flip(0)], dim=1)
    received: torch.Tensor = _AllToAll.apply(by_rank.reshape(size, -1), group)
    by_heads = received.view(size, -1, *x_TBnD.shape[1:])
    return by_heads.permute(1, 2, 0, 3, 4).flatten(2, 3)


class _AllToAll(torch.autograd.Function):
    """Row i of [cp, X] goes to rank i of the group."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.group = group
        return _exchanged(rows, group)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _exchanged(grad, ctx.group), None


def _exchanged(rows: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    rows = rows.contiguous()
    received = torch.empty_like(rows)
    dist.all_to_all_single(received, rows, group=group)
    return received


# --- The next token of a document ----------------------------------------------


def install() -> None:
    """transformer/multi_token_prediction.py: documents' next tokens are taken one by one, with a
    wait for the device for every length, and as if cp had cut each of them instead of the row."""
    multi_token_prediction._roll_tensor_packed_seq = next_in_document


def next_in_document(
    tensor: torch.Tensor,
    shifts: int,
    dims: int,
    packed_seq_params: PackedSeqParams,
    cp_group: dist.ProcessGroup | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What follows each position of [.., S] in its document, 0 after the last; and the sum of it.

    The signature is megatron-core's; shifts is -1. Collective over cp.
    """
    size, rank = (1, 0) if cp_group is None else (cp_group.size(), cp_group.rank())
    rolled, _ = multi_token_prediction.roll_tensor(tensor, shifts, dims, cp_group)
    cumulative = packed_seq_params.cu_seqlens_q
    row = torch.arange(tensor.shape[-1] * size, dtype=cumulative.dtype, device=tensor.device)
    after = split(row, rank, size, dim=0) + 1
    last = cumulative[torch.searchsorted(cumulative, after)] == after
    rolled = rolled.masked_fill(last, 0)
    return rolled, rolled.sum()
