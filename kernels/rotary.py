"""Rotary position embedding whose backward is the inverse rotation (arXiv 2104.09864).

megatron-core's own makes nine passes and keeps two tensors for the backward. Here an element is
read once and written once, queries and keys go in one launch where both are at hand, and nothing
but the angles is kept. On CUDA sine, cosine and products are fp32 whatever the dtype of x.

Shapes: S sequence, B micro-batch, N heads, D head dim, R <= D the dims that rotate, P positions.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from trivium.kernels.registry import Operator

ROTARY = Operator("rotary", "rotary embedding: halves, interleaved, partial, packed documents, MLA")

# How the pairs that rotate lie in the first R dims of a head.
FORMS = {
    "half": 0,  # (i, i + R/2)
    "interleaved": 1,  # (2i, 2i + 1)
    "latent": 2,  # read as (2i, 2i + 1), written as (i, i + R/2): multi-head latent attention
}


class Documents(NamedTuple):
    """Documents laid end to end in a row; positions start anew in each.

    cumulative: int32 [documents + 1] on the device: where each begins in the whole row, and the end
    Under context parallelism a rank holds chunks cp_rank and 2 cp_size - 1 - cp_rank of 2 cp_size
    equal ones: of the whole row if `cut_row`, else of every document, whose lengths are then
    multiples of 2 cp_size (megatron-core's and Transformer Engine's way).
    """

    cumulative: torch.Tensor
    cp_size: int = 1
    cp_rank: int = 0
    cut_row: bool = False


def rotate(
    x_SBND: torch.Tensor,
    angles_PR: torch.Tensor,
    form: str = "half",
    scale: float = 1.0,
    documents: Documents | None = None,
) -> torch.Tensor:
    """Turn each pair of x by its angle, and multiply it by `scale`; dims R to D pass.

    Args:
        x_SBND: fp32, bf16 or fp16 (fp64 on a CPU), any strides.
        angles_PR: radians, [P, R / 2], one for each position and pair, any strides. Row s of x has
            position s, or its position in its document; P must not be less. No gradient.
        form: `half`, `interleaved` or `latent`, see FORMS.
        scale: YaRN's magnitude factor (arXiv 2309.00071).
        documents: where the documents of x begin, if there are several.

    The result has x's shape and dtype: contiguous on CUDA; on a CPU a head's rows are neighbours,
    as attention there wants them. Raises ValueError for shapes that do not fit; that a document is
    longer than P cannot be seen without asking the device: its rows then take the last angle.
    """
    _check(x_SBND, angles_PR, form, documents)
    cumulative, *cut = _arguments(documents)
    angles = _wide(angles_PR, x_SBND)
    return torch.ops.trivium.rotary(x_SBND, angles, cumulative, FORMS[form], scale, False, *cut)


def rotate_pair(
    q_SBND: torch.Tensor,
    k_SBGD: torch.Tensor,
    angles_PR: torch.Tensor,
    form: str = "half",
    scale: float = 1.0,
    documents: Documents | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`rotate` of queries and keys in one launch; they differ in the number of heads only."""
    _check(q_SBND, angles_PR, form, documents)
    if k_SBGD.shape[:2] != q_SBND.shape[:2] or k_SBGD.shape[3:] != q_SBND.shape[3:]:
        shapes = f"{tuple(q_SBND.shape)} and {tuple(k_SBGD.shape)}"
        raise ValueError(f"queries and keys {shapes}: they may differ in heads (dim 2) only")
    cumulative, *cut = _arguments(documents)
    angles = _wide(angles_PR, q_SBND)
    return torch.ops.trivium.rotary_pair(
        q_SBND, k_SBGD, angles, cumulative, FORMS[form], scale, False, *cut
    )


def _check(x: torch.Tensor, angles: torch.Tensor, form: str, documents: Documents | None) -> None:
    if form not in FORMS:
        raise ValueError(f"rotary form {form!r}: choose {', '.join(FORMS)}")
    if x.dim() != 4 or angles.dim() != 2 or not 0 < 2 * angles.shape[1] <= x.shape[3]:
        shapes = f"x {tuple(x.shape)}, angles {tuple(angles.shape)}"
        raise ValueError(f"{shapes}: give x [S, B, N, D] and angles [P, R / 2] with R <= D")
    if documents is None and angles.shape[0] < x.shape[0]:
        raise ValueError(f"{x.shape[0]} rows, but angles for {angles.shape[0]} positions")


def _wide(angles: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """As the operators take them: fp32, or fp64 where x is."""
    return angles.to(torch.float64 if x.dtype == torch.float64 else torch.float32)


def _arguments(documents: Documents | None) -> tuple[torch.Tensor | None, int, int, bool]:
    """(cumulative, cp_size, cp_rank, cut_row) as the operators take them."""
    if documents is None:
        return None, 1, 0, False
    cumulative, size, rank, cut_row = documents
    if cumulative.dim() != 1 or len(cumulative) < 2:
        raise ValueError(f"cumulative {tuple(cumulative.shape)}: give [documents + 1] starts")
    if not 0 <= rank < size:
        raise ValueError(f"cp_rank {rank} of cp_size {size}: ranks count from 0")
    return cumulative.to(torch.int32).contiguous(), size, rank, cut_row


@ROTARY.define(
    "rotary(Tensor x, Tensor angles, Tensor? cumulative, int form, float scale, bool inverse, "
    "int cp_size, int cp_rank, bool cut_row) -> Tensor"
)
def _rotary(
    x: torch.Tensor,
    angles: torch.Tensor,
    cumulative: torch.Tensor | None,
    form: int,
    scale: float,
    inverse: bool,
    cp_size: int,
    cp_rank: int,
    cut_row: bool,
) -> torch.Tensor:
    """`inverse`: the rotation back, times `scale` as well, which is the gradient's."""
    cos, sin = _cos_sin(x, angles, scale, inverse, cumulative, cp_size, cp_rank, cut_row)
    return _turn(x, cos, sin, form, inverse)


@ROTARY.define(
    "rotary_pair(Tensor q, Tensor k, Tensor angles, Tensor? cumulative, int form, float scale, "
    "bool inverse, int cp_size, int cp_rank, bool cut_row) -> (Tensor, Tensor)"
)
def _rotary_pair(
    q: torch.Tensor,
    k: torch.Tensor,
    angles: torch.Tensor,
    cumulative: torch.Tensor | None,
    form: int,
    scale: float,
    inverse: bool,
    cp_size: int,
    cp_rank: int,
    cut_row: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    cos, sin = _cos_sin(q, angles, scale, inverse, cumulative, cp_size, cp_rank, cut_row)
    return _turn(q, cos, sin, form, inverse), _turn(k, cos, sin, form, inverse)


def _cos_sin(
    x: torch.Tensor,
    angles: torch.Tensor,
    scale: float,
    inverse: bool,
    cumulative: torch.Tensor | None,
    cp_size: int,
    cp_rank: int,
    cut_row: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine [S, 1, 1, R / 2] of the rows of x, in its dtype."""
    if cumulative is None:
        angles = angles[: x.shape[0]]
    else:
        positions = document_positions(cumulative, x.shape[0], cp_size, cp_rank, cut_row)
        angles = angles[positions.clamp(0, max(len(angles) - 1, 0))]
    cos, sin = angles.cos(), angles.sin()
    if scale != 1.0:
        cos, sin = cos * scale, sin * scale
    if inverse:
        sin = sin.neg_()
    return cos.to(x.dtype)[:, None, None], sin.to(x.dtype)[:, None, None]


def document_positions(
    cumulative: torch.Tensor, rows: int, cp_size: int = 1, cp_rank: int = 0, cut_row: bool = False
) -> torch.Tensor:
    """The position of each of a rank's `rows` rows in its document, int64 [rows]; no host sync.

    See `Documents`. Rows after the last document go on counting.
    """
    starts = cumulative if cut_row else cumulative // cp_size
    place = torch.arange(rows, dtype=starts.dtype, device=starts.device)
    if cut_row:
        place = _whole_index(place, rows, cp_size, cp_rank)
    document = torch.searchsorted(starts[1:], place, right=True).clamp_(max=len(starts) - 2)
    index = place - starts[document]
    if not cut_row:
        index = _whole_index(index, starts.diff()[document], cp_size, cp_rank)
    return index.long()


def _whole_index(
    index: torch.Tensor, held: torch.Tensor | int, cp_size: int, cp_rank: int
) -> torch.Tensor:
    """The index in the whole of an index among the `held` of a rank: chunks r and 2 cp - 1 - r."""
    if cp_size == 1:
        return index
    chunk = held // 2
    second = (2 * cp_size - 1 - cp_rank) * chunk + index - chunk
    return torch.where(index < chunk, cp_rank * chunk + index, second)


def _turn(
    x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, form: int, inverse: bool
) -> torch.Tensor:
    R = 2 * cos.shape[-1]
    out = _new(x, inverse)
    first, second = _pairs(x[..., :R], halves=form == 0 or (form == 2 and inverse))
    out_first, out_second = _pairs(out[..., :R], halves=form == 0 or (form == 2 and not inverse))
    torch.mul(first, cos, out=out_first).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=out_second).addcmul_(first, sin)
    if x.shape[-1] > R:
        out[..., R:] = x[..., R:]
    return out


def _pairs(x: torch.Tensor, halves: bool) -> tuple[torch.Tensor, torch.Tensor]:
    if halves:
        first, second = x.chunk(2, dim=-1)
        return first, second
    return x[..., 0::2], x[..., 1::2]


def _new(x: torch.Tensor, inverse: bool) -> torch.Tensor:
    """For the result; going forward on a CPU, with a head's rows as neighbours for attention."""
    S, B, N, D = x.shape
    if inverse or x.device.type != "cpu":
        return x.new_empty(S, B, N, D)
    return x.new_empty(B, N, S, D).permute(2, 0, 1, 3)


@ROTARY.fake("rotary")
def _rotary_fake(
    x: torch.Tensor,
    angles: torch.Tensor,
    cumulative: torch.Tensor | None,
    form: int,
    scale: float,
    inverse: bool,
    cp_size: int,
    cp_rank: int,
    cut_row: bool,
) -> torch.Tensor:
    return _new(x, inverse)


@ROTARY.fake("rotary_pair")
def _rotary_pair_fake(
    q: torch.Tensor,
    k: torch.Tensor,
    angles: torch.Tensor,
    cumulative: torch.Tensor | None,
    form: int,
    scale: float,
    inverse: bool,
    cp_size: int,
    cp_rank: int,
    cut_row: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    return _new(q, inverse), _new(k, inverse)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    del output
    _, angles, cumulative, *ctx.rest = inputs
    ctx.save_for_backward(angles, cumulative)


def _gradient(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    angles, cumulative = ctx.saved_tensors
    form, scale, inverse, *cut = ctx.rest
    dx = torch.ops.trivium.rotary(grad, angles, cumulative, form, scale, not inverse, *cut)
    return dx, *[None] * 8


def _keep_pair(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    _keep(ctx, inputs[1:], output[0])


def _gradient_pair(
    ctx: Any, grad_q: torch.Tensor, grad_k: torch.Tensor
) -> tuple[torch.Tensor | None, ...]:
    angles, cumulative = ctx.saved_tensors
    form, scale, inverse, *cut = ctx.rest
    dq, dk = torch.ops.trivium.rotary_pair(
        grad_q, grad_k, angles, cumulative, form, scale, not inverse, *cut
    )
    return dq, dk, *[None] * 8


ROTARY.autograd("rotary", _gradient, _keep)
ROTARY.autograd("rotary_pair", _gradient_pair, _keep_pair)
