"""torch's fused attention kernels of CUDA with their log-sum-exp in hand.

`F.scaled_dot_product_attention` knows neither windows nor documents laid end to end, and keeps the
log-sum-exp to itself. The operators beneath it have all three: `attend` is causal attention with a
window or with documents, `FusedPieces` the rectangles of scores of a ring (context parallelism).

Shapes: B micro-batch, S length, T length of the keys, N query heads, G key/value groups, D head
dim, Dv of values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F

from trivium.engine.model.blocked_attention import merge
from trivium.engine.model.zigzag import Piece

_ATEN = torch.ops.aten


def usable(*tensors: torch.Tensor) -> bool:
    """Does the flash kernel take these [..., D]? Values may be narrower: they are padded."""
    return all(
        x.is_cuda and x.dtype in (torch.bfloat16, torch.float16) and x.shape[-1] <= 256
        and x.shape[-1] % 8 == 0 for x in tensors
    ) and torch.cuda.get_device_capability(tensors[0].device) >= (8, 0)  # fmt: skip


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    scale: float | None,
    window: int | None = None,
    cumulative: torch.Tensor | None = None,
    longest: int = 0,
) -> torch.Tensor:
    """Causal attention of [B, S, N, D] with [B, S, G, D], or of documents [S, N, D], [S, G, D].

    window: tokens seen, the token itself included. cumulative: int32 [documents + 1] on the device,
    where each begins, and the end; longest: of the documents. Differentiable.
    """
    settings = _Settings(q.shape[-1] ** -0.5 if scale is None else scale, True)
    settings.left = -1 if window is None else window - 1
    settings.cumulative, settings.longest = cumulative, longest
    return _Attend.apply(q, k, v, settings)


class _Settings:
    """Everything but the tensors of one call of the flash kernel."""

    def __init__(self, scale: float, causal: bool, left: int = -1) -> None:
        self.scale = scale
        self.causal = causal
        self.left = left  # keys seen before the diagonal, which ends at the last query and key
        self.cumulative: torch.Tensor | None = None
        self.longest = 0


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, settings: _Settings
    ) -> torch.Tensor:
        out, lse = _flash(q, k, v, settings)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.settings = settings
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        return (*_flash_backward(grad, q, k, v, out, lse, ctx.settings), None)


def _widened(x: torch.Tensor, D: int) -> torch.Tensor:
    """With a last dimension of D: the kernel wants one for queries, keys and values."""
    return x if x.shape[-1] == D else F.pad(x, (0, D - x.shape[-1]))


def _flash(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, settings: _Settings
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output and fp32 log-sum-exp: [B, S, N, Dv], [B, N, S]; of documents [S, N, Dv], [N, S]."""
    documents = settings.cumulative is not None
    out, lse, *_ = _ATEN._flash_attention_forward(
        q,
        k,
        _widened(v, q.shape[-1]),
        settings.cumulative,
        settings.cumulative,
        settings.longest if documents else q.shape[1],
        settings.longest if documents else k.shape[1],
        0.0,
        settings.causal,
        False,
        scale=settings.scale,
        window_size_left=settings.left,
        window_size_right=0 if settings.causal else -1,
    )
    return out[..., : v.shape[-1]], lse


def _flash_backward(
    grad: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    settings: _Settings,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    documents = settings.cumulative is not None
    D, Dv = q.shape[-1], v.shape[-1]
    state = torch.zeros(2, dtype=torch.uint64, device=q.device)  # of dropout, which there is not
    dq, dk, dv = _ATEN._flash_attention_backward(
        _widened(grad, D).contiguous(),
        q,
        k,
        _widened(v, D),
        _widened(out, D).contiguous(),
        lse.contiguous(),
        settings.cumulative,
        settings.cumulative,
        settings.longest if documents else q.shape[1],
        settings.longest if documents else k.shape[1],
        0.0,
        settings.causal,
        state,
        torch.empty(0, device=q.device),
        scale=settings.scale,
        window_size_left=settings.left,
        window_size_right=0 if settings.causal else -1,
    )
    return dq, dk, dv[..., :Dv]


class FusedPieces:
    """Pieces of attention by fused kernels; outputs are merged and gradients added in place.

    Queries, keys, values and what belongs to them are [B, S, heads, D]; out is wide, lse [B, N, S].
    Without a window and off the short diagonals of documents, cuDNN's kernel is taken where it can
    be: on Hopper it is the faster one.
    """

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def queries(self, x_SBND: torch.Tensor) -> torch.Tensor:
        """[S, B, N, D] -> [B, S, N, D]."""
        return x_SBND.transpose(0, 1)

    keys = queries

    def from_queries(self, x_BSND: torch.Tensor, length: int) -> torch.Tensor:
        """[B, S, N, D] -> [S, B, N, D]."""
        del length
        return x_BSND.transpose(0, 1)

    def from_keys(self, x_BTGD: torch.Tensor) -> torch.Tensor:
        """[B, T, G, D] -> [T, B, G, D]."""
        return x_BTGD.transpose(0, 1)

    def nothing(self, q: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Output and log-sum-exp of no key at all."""
        B, S, N, _ = q.shape
        out = q.new_zeros(B, S, N, v.shape[-1], dtype=torch.float32)
        return out, q.new_full((B, N, S), -torch.inf, dtype=torch.float32)

    def forward(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        pieces: Sequence[Piece],
        out: torch.Tensor,
        lse: torch.Tensor,
    ) -> None:
        """Merge what `pieces` see into out and lse."""
        diagonals, rest = _apart(pieces, q)
        if diagonals is not None:
            settings = diagonals.settings(self.scale, q.device)
            more_out, more_lse = _flash(q[0], k[0], v[0], settings)
            merge(out[0], lse[0].t(), more_out, more_lse.t())
        for piece in rest:
            here = slice(*piece.queries)
            there = slice(*piece.keys)
            q_, k_, v_ = q[:, here], k[:, there], v[:, there]
            if _cudnn_takes(q_, k_, v_, piece):
                more_out, more_lse = _cudnn(q_, k_, v_, self.scale, piece.distance == 0)
            else:
                more_out, more_lse = _flash(q_, k_, v_, self._rectangle(piece))
            merge(out[:, here], lse[:, :, here].transpose(1, 2), more_out, more_lse.transpose(1, 2))

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
    ) -> None:
        """Add the gradients of `pieces`; out and lse are those of all keys together."""
        out = out.to(q.dtype)
        diagonals, rest = _apart(pieces, q)
        if diagonals is not None:
            settings = diagonals.settings(self.scale, q.device)
            more = _flash_backward(grad[0], q[0], k[0], v[0], out[0], lse[0], settings)
            for total, part in zip((dq, dk, dv), more, strict=True):
                total[0] += part
        for piece in rest:
            here, there = slice(*piece.queries), slice(*piece.keys)
            arguments = grad[:, here], q[:, here], k[:, there], v[:, there], out[:, here]
            lse_ = lse[:, :, here].contiguous()
            if _cudnn_takes(*arguments[1:4], piece):
                more = _cudnn_backward(*arguments, lse_, self.scale, piece.distance == 0)
            else:
                more = _flash_backward(*arguments, lse_, self._rectangle(piece))
            dq[:, here] += more[0]
            dk[:, there] += more[1]
            dv[:, there] += more[2]

    def _rectangle(self, piece: Piece) -> _Settings:
        """The kernel counts its window from the diagonal that ends at the last query and key."""
        if piece.window is None:
            return _Settings(self.scale, piece.distance == 0)
        queries, keys = (stop - start for start, stop in (piece.queries, piece.keys))
        left = keys - queries - piece.distance + piece.window - 1
        return _Settings(self.scale, piece.distance == 0, left)


def _apart(pieces: Sequence[Piece], q: torch.Tensor) -> tuple[_Diagonals | None, list[Piece]]:
    """The diagonals of the documents of one row, for one call; and the rest.

    Together they are all positions that the rank holds, one after the other.
    """
    diagonals = [piece for piece in pieces if piece.distance == 0]
    if len(diagonals) < 2 or q.shape[0] > 1:
        return None, list(pieces)
    boundaries = (0, *(piece.queries[1] for piece in diagonals))
    windows = [piece.window for piece in diagonals if piece.window is not None]  # None: no shorter
    found = _Diagonals(boundaries, windows[0] if windows else None)
    return found, [piece for piece in pieces if piece.distance != 0]


@dataclass(frozen=True)
class _Diagonals:
    boundaries: tuple[int, ...]
    window: int | None

    def settings(self, scale: float, device: torch.device) -> _Settings:
        left = -1 if self.window is None else self.window - 1
        settings = _Settings(scale, True, left)
        settings.cumulative = on_device(self.boundaries, device)
        settings.longest = max(b - a for a, b in pairwise(self.boundaries))
        return settings


@lru_cache(maxsize=64)
def on_device(numbers: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """int32, copied once and without a wait for the device."""
    return torch.tensor(numbers, dtype=torch.int32).pin_memory().to(device, non_blocking=True)


def _cudnn_takes(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, piece: Piece) -> bool:
    """Would cuDNN compute this piece, here and now?"""
    if piece.window is not None:
        return False
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    grouped = q.shape[1] != k.shape[1]
    settings = torch.backends.cuda.SDPAParams(q, k, v, None, 0.0, piece.distance == 0, grouped)
    return torch.backends.cuda.can_use_cudnn_attention(settings)


def _cudnn(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, causal: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output [B, S, N, Dv], and log-sum-exp fp32 [B, N, S]."""
    heads = (x.transpose(1, 2) for x in (q, k, v))
    out, lse, *_ = _ATEN._scaled_dot_product_cudnn_attention(
        *heads, None, True, 0.0, causal, False, scale=scale
    )
    return out.transpose(1, 2), lse.squeeze(-1)


def _cudnn_backward(
    grad: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    scale: float,
    causal: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    grad_, q_, k_, v_, out_ = (x.transpose(1, 2) for x in (grad.contiguous(), q, k, v, out))
    state = torch.zeros((), dtype=torch.int64, device=q.device)  # of dropout, which there is not
    gradients = _ATEN._scaled_dot_product_cudnn_attention_backward(
        grad_,
        q_,
        k_,
        v_,
        out_,
        lse.unsqueeze(-1),
        state,
        state,
        None,
        None,
        None,
        q.shape[1],
        k.shape[1],
        0.0,
        causal,
        scale=scale,
    )
    dq, dk, dv = (x.transpose(1, 2) for x in gradients)
    return dq, dk, dv
