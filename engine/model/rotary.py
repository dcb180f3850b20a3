"""Rotary position embedding whose backward is the inverse rotation (arXiv 2104.09864).

Fills megatron-core's slot for a fused kernel. Its own version makes nine passes and keeps two
tensors for the backward; this one writes each output element twice and keeps none but the angles.

Shapes: S sequence, B micro-batch, N heads, D head dim, R <= D the dims that rotate.
"""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.models.common.embeddings import rope_utils


def install() -> None:
    """Put the functions below where `apply_rope_fusion` looks for them, unless others are there."""
    if rope_utils.fused_apply_rotary_pos_emb is None:
        rope_utils.fused_apply_rotary_pos_emb = rotate
        rope_utils.fused_apply_rotary_pos_emb_thd = rotate_documents


def rotate(
    x_SBND: torch.Tensor, angles_S11R: torch.Tensor, interleaved: bool = False
) -> torch.Tensor:
    """Rotate the pairs (i, i + R/2) of the first R dims by their angles; the rest passes."""
    if interleaved:
        raise NotImplementedError("interleaved pairs are left to megatron-core")
    return _Rotation.apply(x_SBND, angles_S11R)


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
    lengths = (cumulative.diff() // cp_size).tolist()
    parts = [
        rope_utils._get_thd_freqs_on_this_cp_rank(cp_rank, cp_size, part, angles_S11R)
        for part in x_SND.split(lengths)
    ]
    return rotate(x_SND.unsqueeze(1), torch.cat(parts)).squeeze(1)


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_SBND: torch.Tensor, angles_S11R: torch.Tensor) -> torch.Tensor:
        # the second half of the angles repeats the first
        half_S11R = angles_S11R[..., : angles_S11R.shape[-1] // 2]
        cos, sin = half_S11R.cos().to(x_SBND.dtype), half_S11R.sin().to(x_SBND.dtype)
        ctx.save_for_backward(cos, sin)
        S, B, N, D = x_SBND.shape
        # a head's rows are neighbours, as attention on a CPU wants them
        out = x_SBND.new_empty(B, N, S, D).permute(2, 0, 1, 3)
        return _turn(x_SBND, cos, sin, out)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        cos, sin = ctx.saved_tensors
        return _turn(grad, cos, -sin, grad.new_empty(grad.shape)), None


def _turn(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    half = cos.shape[-1]
    first, second, rest = x.split([half, half, x.shape[-1] - 2 * half], dim=-1)
    out_first, out_second, out_rest = out.split([half, half, rest.shape[-1]], dim=-1)
    torch.mul(first, cos, out=out_first).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=out_second).addcmul_(first, sin)
    if rest.shape[-1]:
        out_rest.copy_(rest)
    return out
