"""Rotary embedding as megatron-core's attention asks for it, by `trivium.kernels.rotary`.

megatron-core's slot for a fused kernel passes neither a magnitude (YaRN) nor, with packed
documents, the form of the pairs, and its own packed version asks the device for every length. So
what attention calls is replaced as a whole. One fault goes with it: YaRN with interleaved pairs,
whose two elements megatron-core turns by different angles.

Shapes: S sequence, B micro-batch, N heads, D head dim, R <= D the dims that rotate.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.models.common.embeddings import rope_utils
from megatron.core.transformer import TransformerConfig, attention, multi_latent_attention

from trivium.engine.model.cached_attention import Positions
from trivium.kernels import rotary


def install() -> None:
    """Make grouped and latent attention call `apply`."""
    attention.apply_rotary_pos_emb = apply
    multi_latent_attention.apply_rotary_pos_emb = apply


def apply(
    t: torch.Tensor,
    freqs: torch.Tensor,
    config: TransformerConfig,
    cu_seqlens: torch.Tensor | Positions | None = None,
    mscale: float = 1.0,
    cp_group: Any = None,
) -> torch.Tensor:
    """Turn t [S, B, N, D], or [S, N, D] with documents, by freqs [positions, 1, 1, R] radians.

    The signature is megatron-core's. freqs are those of t's rows, already this context-parallel
    rank's; with documents (`cu_seqlens`, int32, of whole documents) or with positions of cached
    rows, those of positions from 0.
    Where megatron-core would have every document cut for context parallelism, here the row is.
    """
    if freqs.shape[1] != 1:  # positions in space, one set for each entry of the batch
        return rope_utils.apply_rotary_pos_emb(t, freqs, config, cu_seqlens, mscale, cp_group)
    interleaved = config.rotary_interleaved
    form = "interleaved" if interleaved else "half"
    if config.multi_latent_attention:
        form = "latent"
    yarn = hasattr(config, "yarn_rotary_scaling_factor")
    angles = _pair_angles(freqs, repeated_in_place=interleaved and not yarn)
    if cu_seqlens is None:
        return rotary.rotate(t, angles, form, mscale)
    if isinstance(cu_seqlens, Positions):
        return rotary.rotate(t.unsqueeze(1), cu_seqlens.angles(angles), form, mscale).squeeze(1)
    group = parallel_state.get_context_parallel_group() if cp_group is None else cp_group
    documents = rotary.Documents(cu_seqlens, group.size(), group.rank(), cut_row=True)
    return rotary.rotate(t.unsqueeze(1), angles, form, mscale, documents).squeeze(1)


def rotate(
    x_SBND: torch.Tensor, angles_S11R: torch.Tensor, interleaved: bool = False
) -> torch.Tensor:
    """Rotate the pairs (i, i + R/2), or (2i, 2i + 1), of the first R dims; the rest passes."""
    form = "interleaved" if interleaved else "half"
    return rotary.rotate(x_SBND, _pair_angles(angles_S11R, interleaved), form)


def rotate_documents(
    x_SND: torch.Tensor,
    cumulative: torch.Tensor,
    angles_S11R: torch.Tensor,
    cp_size: int = 1,
    cp_rank: int = 0,
) -> torch.Tensor:
    """Rotate the rows of documents laid end to end, positions starting anew in each.

    cumulative: int32 [documents + 1], where each begins, and the end.
    """
    documents = rotary.Documents(cumulative, cp_size, cp_rank)
    angles = _pair_angles(angles_S11R, repeated_in_place=False)
    return rotary.rotate(x_SND.unsqueeze(1), angles, documents=documents).squeeze(1)


def _pair_angles(angles_S11R: torch.Tensor, repeated_in_place: bool) -> torch.Tensor:
    """One angle a pair, [S, R / 2]. They come twice: side by side, or the whole row again."""
    angles_SR = angles_S11R[:, 0, 0]
    return angles_SR[:, ::2] if repeated_in_place else angles_SR[:, : angles_SR.shape[1] // 2]
