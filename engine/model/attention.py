"""Core attention without an S x S matrix, whatever the mask: `F.scaled_dot_product_attention`; on
CUDA the operators beneath it, for windows and documents; and on a CPU, where training spends its
time in it, blocks of our own. A row that is split over cp is attended by `context_parallel`.

Shapes: S query length, T key length, B micro-batch, N query heads, G key/value groups, D head dim,
all local to this tensor- and context-parallel rank. megatron-core calls `CoreAttention` in
[S, B, N, D], or in [S, N, D] when several documents share a row (`Documents`).
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.enums import AttnMaskType
from torch.nn.attention import SDPBackend, sdpa_kernel

from trivium.engine.model import flash_attention
from trivium.engine.model.blocked_attention import causal_attention
from trivium.engine.model.cached_attention import CachedRows
from trivium.engine.model.capped_attention import capped_attention, capped_scores
from trivium.engine.model.context_parallel import AllToAllAttention, RingAttention
from trivium.engine.model.variations import variations

_SHORT = 512  # tokens
# fastest first
_PRIORITY = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


@dataclass
class Documents(PackedSeqParams):
    """Where documents begin in a flattened micro-batch: attention stays inside each.

    `boundaries` is `cu_seqlens_q` on the host, so that no device is asked for it. Under cp, both
    are of the whole row, of which a rank holds a part.
    """

    boundaries: tuple[int, ...] = ()

    @staticmethod
    def of(boundaries: tuple[int, ...], device: Any) -> Documents:
        """boundaries: 0, the start of every further document, the total length."""
        cumulative = torch.tensor(boundaries, dtype=torch.int32, device=device)
        longest = max(b - a for a, b in pairwise(boundaries))
        return Documents(
            qkv_format="thd",
            cu_seqlens_q=cumulative,
            cu_seqlens_kv=cumulative,
            max_seqlen_q=longest,
            max_seqlen_kv=longest,
            boundaries=boundaries,
        )


class CoreAttention(torch.nn.Module):
    """softmax(q k^T scale) v: causal, windowed, grouped, per document, with or without a cache.

    `context` attends where rows are split over cp; None where each rank has whole rows.
    """

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: AttnMaskType,
        attention_type: str,
        softmax_scale: float | None = None,
        attention_dropout: float | None = None,
        cp_comm_type: str | None = None,
        pg_collection: ProcessGroupCollection | None = None,
        **unused: Any,
    ) -> None:
        super().__init__()
        del attn_mask_type, unused
        if attention_type != "self":
            raise ValueError(f"attention_type {attention_type!r}: only self-attention is built")
        special = variations(config)
        self.scale = config.softmax_scale if softmax_scale is None else softmax_scale
        self.softcap = special.attention_softcap
        self.dropout = config.attention_dropout if attention_dropout is None else attention_dropout
        window = config.window_size
        # megatron counts the tokens before the query; -1 is no limit
        self.window = None if window is None or window[0] < 0 else window[0] + 1
        if not special.has_window(layer_number):
            self.window = None
        self.context: RingAttention | AllToAllAttention | None = None
        if pg_collection is not None and pg_collection.cp.size() > 1:
            if cp_comm_type == "a2a":
                self.context = AllToAllAttention(pg_collection.cp)
            else:
                self.context = RingAttention(pg_collection.cp, self.scale, self.window)

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        attn_mask_type: AttnMaskType | None = None,
        attention_bias: torch.Tensor | None = None,
        packed_seq_params: PackedSeqParams | None = None,
        **unused: Any,
    ) -> torch.Tensor:
        """query [S, B, N, D], key [T, B, G, D], value [T, B, G, Dv] -> [S, B, N * Dv].

        With `Documents` or `CachedRows`: [S, N, D], [S, G, D], [S, G, Dv] -> [S, N * Dv].
        `attention_mask` is not read: what may be seen follows from lengths, window and documents.
        """
        del attention_mask, attn_mask_type, attention_bias, unused
        boundaries = None
        if isinstance(packed_seq_params, CachedRows):
            grouped = query.unflatten(1, (key.shape[1], -1))
            return packed_seq_params.attend(self, grouped, key, value)
        if packed_seq_params is not None:
            if not isinstance(packed_seq_params, Documents):
                raise TypeError("packed sequences are given as engine.model.attention.Documents")
            boundaries = packed_seq_params.boundaries
            query, key, value = (x.unsqueeze(1) for x in (query, key, value))
        if self.context is None:
            out = self._whole(query, key, value, boundaries)
        else:
            out = self.context(query, key, value, boundaries, self._whole)
        return out.flatten(2) if boundaries is None else out.squeeze(1).flatten(1)

    def _whole(
        self,
        q_SBND: torch.Tensor,
        k_TBGD: torch.Tensor,
        v_TBGD: torch.Tensor,
        boundaries: tuple[int, ...] | None,
    ) -> torch.Tensor:
        """[S, B, N, Dv] of rows that this rank has whole; of documents, B is 1."""
        if boundaries is not None:
            return self._by_document(q_SBND, k_TBGD, v_TBGD, boundaries)
        out_BNSD = self.attend(*(x.permute(1, 2, 0, 3) for x in (q_SBND, k_TBGD, v_TBGD)))
        return out_BNSD.permute(2, 0, 1, 3)

    def _by_document(
        self,
        q_S1ND: torch.Tensor,
        k_S1GD: torch.Tensor,
        v_S1GD: torch.Tensor,
        boundaries: tuple[int, ...],
    ) -> torch.Tensor:
        lengths = [b - a for a, b in pairwise(boundaries)]
        if self._flash(q_S1ND, k_S1GD, v_S1GD):
            cumulative = flash_attention.on_device(boundaries, q_S1ND.device)
            q_SND, k_SGD, v_SGD = (x.squeeze(1) for x in (q_S1ND, k_S1GD, v_S1GD))
            out_SND = flash_attention.attend(
                q_SND, k_SGD, v_SGD, self.scale, self.window, cumulative, max(lengths)
            )
            return out_SND.unsqueeze(1)
        parts = zip(*(x.split(lengths) for x in (q_S1ND, k_S1GD, v_S1GD)), strict=True)
        outs = [self.attend(*(x.permute(1, 2, 0, 3) for x in part)) for part in parts]
        return torch.cat([out.permute(2, 0, 1, 3) for out in outs])

    def _flash(self, *tensors: torch.Tensor) -> bool:
        """Can the flash kernel be called by itself?"""
        plain = self.softcap is None and not (self.training and self.dropout)
        return plain and flash_attention.usable(*tensors)

    def attend_masked(
        self,
        q_BNSD: torch.Tensor,
        k_BGTD: torch.Tensor,
        v_BGTD: torch.Tensor,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """[B, N, S, Dv], each query seeing what `mask` (bool [B, 1, S, T]) says; None: all."""
        if self.softcap is not None:
            return capped_scores(q_BNSD, k_BGTD, v_BGTD, self.scale, self.softcap, mask)
        return self._sdpa(q_BNSD, k_BGTD, v_BGTD, mask=mask)

    def attend(
        self, q_BNSD: torch.Tensor, k_BGTD: torch.Tensor, v_BGTD: torch.Tensor
    ) -> torch.Tensor:
        """Causal attention [B, N, S, Dv]; queries are the last S of T positions."""
        S, T = q_BNSD.shape[2], k_BGTD.shape[2]
        if self.softcap is not None:
            dropout = self.dropout if self.training else 0.0
            settings = self.scale, self.softcap, self.window, dropout
            return capped_attention(q_BNSD, k_BGTD, v_BGTD, *settings)
        if self.window is not None and self.window < T:
            if S == T and self._flash(q_BNSD, k_BGTD, v_BGTD):
                q, k, v = (x.transpose(1, 2) for x in (q_BNSD, k_BGTD, v_BGTD))
                return flash_attention.attend(q, k, v, self.scale, self.window).transpose(1, 2)
            return self._windowed(q_BNSD, k_BGTD, v_BGTD, self.window)
        # blocks of our own pay where there is a backward, or many of them
        blocks = torch.is_grad_enabled() or S > _SHORT
        if S == T > 1 and blocks and not q_BNSD.is_cuda and not (self.training and self.dropout):
            return causal_attention(q_BNSD, k_BGTD, v_BGTD, self.scale)
        if S == T:
            return self._sdpa(q_BNSD, k_BGTD, v_BGTD, causal=S > 1)
        if S == 1:
            return self._sdpa(q_BNSD, k_BGTD, v_BGTD)
        return self._sdpa(q_BNSD, k_BGTD, v_BGTD, mask=self._band(S, T, T, q_BNSD.device))

    def _windowed(
        self, q_BNSD: torch.Tensor, k_BGTD: torch.Tensor, v_BGTD: torch.Tensor, window: int
    ) -> torch.Tensor:
        """Query blocks of one window see two windows of keys: memory S x window, never S x S."""
        S, T = q_BNSD.shape[2], k_BGTD.shape[2]
        outs = []
        for start in range(0, S, window):
            stop = min(start + window, S)
            first = max(0, T - S + start - window + 1)
            last = T - S + stop
            mask = self._band(stop - start, last - first, window, q_BNSD.device)
            block = (q_BNSD[:, :, start:stop], k_BGTD[:, :, first:last], v_BGTD[:, :, first:last])
            outs.append(self._sdpa(*block, mask=mask))
        return torch.cat(outs, dim=2)

    @staticmethod
    def _band(S: int, T: int, window: int, device: torch.device) -> torch.Tensor:
        """bool [S, T]: query i, at position T - S + i, sees the `window` positions up to it."""
        query = torch.arange(T - S, T, device=device).unsqueeze(1)
        key = torch.arange(T, device=device).unsqueeze(0)
        return (key <= query) & (key > query - window)

    def _sdpa(
        self,
        q_BNSD: torch.Tensor,
        k_BGTD: torch.Tensor,
        v_BGTD: torch.Tensor,
        causal: bool = False,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        D, Dv = q_BNSD.shape[-1], v_BGTD.shape[-1]
        dropout = self.dropout if self.training else 0.0
        grouped = q_BNSD.shape[1] != k_BGTD.shape[1]
        kernels: Any = contextlib.nullcontext()
        padded = Dv < D  # MLA: but for cuDNN's, the fused kernels want one head dim
        if q_BNSD.is_cuda:
            kernels = sdpa_kernel(_PRIORITY, set_priority=True)
            if padded:
                asked = torch.backends.cuda.SDPAParams(
                    q_BNSD, k_BGTD, v_BGTD, mask, dropout, causal, grouped
                )
                padded = not torch.backends.cuda.can_use_cudnn_attention(asked)
        if padded:
            v_BGTD = F.pad(v_BGTD, (0, D - Dv))
        with kernels:
            out = F.scaled_dot_product_attention(
                q_BNSD,
                k_BGTD,
                v_BGTD,
                attn_mask=mask,
                dropout_p=dropout,
                is_causal=causal,
                scale=self.scale,
                enable_gqa=grouped,
            )
        return out[..., :Dv] if padded else out
