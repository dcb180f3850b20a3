"""Rotary embedding of queries and keys: ours, Liger, torch eager and compiled, megatron-core."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tools.benchmarks.kernel_case import Case
from trivium.kernels.rotary import FORMS, Documents, rotate, rotate_pair

TARGET = ">= 85 % of copy"


def cases(tiny: bool) -> list[Case]:
    """Llama-3-8B's queries and keys, as halves and interleaved, and DeepSeek-V3's rotary part."""
    S, N, G, D = (256, 8, 2, 128) if tiny else (8192, 32, 8, 128)
    latent, heads = (128, 16) if tiny else (4096, 128)
    shape = f"{S} x ({N} + {G}) x {D} bf16"

    def made() -> tuple[torch.Tensor, ...]:
        return _random(S, 1, N, D), _random(S, 1, G, D), _angles(S, D // 2)

    def packed() -> tuple[torch.Tensor, ...]:
        return *made(), torch.arange(0, S + 1, S // 16, device="cuda", dtype=torch.int32)

    def with_cos_sin() -> tuple[torch.Tensor, ...]:
        q, k, angles = made()
        twice = angles.repeat(1, 2)[None]
        return q, k, angles, twice.cos().bfloat16(), twice.sin().bfloat16()

    size = 2 * 2 * S * (N + G) * D  # bytes: read and written
    return [
        Case(
            name=f"rope forward {shape}",
            inputs=with_cos_sin,
            contestants=_forward(),
            bytes=size,
            target=TARGET,
        ),
        Case(
            name=f"rope backward {shape}",
            inputs=with_cos_sin,
            contestants=_backward(),
            bytes=size,
            target=TARGET,
        ),
        Case(
            name=f"rope interleaved {shape}",
            inputs=made,
            contestants={
                "ours": lambda q, k, angles: rotate_pair(q, k, angles, "interleaved"),
                "ours in two": lambda q, k, angles: (
                    rotate(q, angles, "interleaved"),
                    rotate(k, angles, "interleaved"),
                ),
            },
            bytes=size,
            target=TARGET,
        ),
        Case(
            name=f"rope of 16 documents {shape}",
            inputs=packed,
            contestants={
                "ours": lambda q, k, angles, starts: rotate_pair(
                    q, k, angles, documents=Documents(starts)
                ),
            },
            bytes=size,
            target=TARGET,
        ),
        Case(
            name=f"rope latent {latent} x {heads} x 64 of 192 bf16",
            inputs=lambda: (_random(latent, 1, heads, 192)[..., 128:], _angles(latent, 32)),
            contestants={"ours": lambda q, angles: rotate(q, angles, "latent"), **_latent()},
            bytes=2 * 2 * latent * heads * 64,
            target=TARGET,
        ),
    ]


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


def _angles(positions: int, pairs: int) -> torch.Tensor:
    frequency = 500000.0 ** -(torch.arange(pairs, device="cuda") / pairs)
    return torch.outer(torch.arange(positions, device="cuda").float(), frequency)


def _eager(q: torch.Tensor, k: torch.Tensor, angles: torch.Tensor, *rest: torch.Tensor) -> Any:
    """As Hugging Face's Llama has it, sine and cosine included."""
    del rest
    twice = torch.cat([angles, angles], dim=-1)[:, None, None]
    cos, sin = twice.cos().to(q.dtype), twice.sin().to(q.dtype)

    def turned(x: torch.Tensor) -> torch.Tensor:
        first, second = x.chunk(2, dim=-1)
        return x * cos + torch.cat([-second, first], dim=-1) * sin

    return turned(q), turned(k)


def _forward() -> dict[str, Callable[..., Any]]:
    found: dict[str, Callable[..., Any]] = {
        "ours": lambda q, k, angles, cos, sin: rotate_pair(q, k, angles),
        "ours in two": lambda q, k, angles, cos, sin: (rotate(q, angles), rotate(k, angles)),
    }
    try:
        from liger_kernel.ops.rope import rope_forward

        # in place, on [B, N, S, D] over [B, S, N, D]; cosine and sine are given
        found["liger"] = lambda q, k, angles, cos, sin: rope_forward(
            q.permute(1, 2, 0, 3), k.permute(1, 2, 0, 3), cos, sin
        )
    except ImportError:
        pass
    found["torch"] = _eager
    found["compile"] = torch.compile(_eager, dynamic=False)
    try:
        from megatron.core.models.common.embeddings.rope_utils import _apply_rotary_pos_emb_bshd

        def megatron(q: torch.Tensor, k: torch.Tensor, angles: torch.Tensor, *rest: Any) -> Any:
            del rest
            freqs = torch.cat([angles, angles], dim=-1)[:, None, None]
            return _apply_rotary_pos_emb_bshd(q, freqs), _apply_rotary_pos_emb_bshd(k, freqs)

        found["megatron"] = megatron
    except ImportError:
        pass
    return found


def _backward() -> dict[str, Callable[..., Any]]:
    rest = (None, FORMS["half"], 1.0, True, 1, 0, False)
    found: dict[str, Callable[..., Any]] = {
        "ours": lambda q, k, angles, cos, sin: torch.ops.trivium.rotary_pair(q, k, angles, *rest)
    }
    try:
        from liger_kernel.ops.rope import rope_backward

        found["liger"] = lambda q, k, angles, cos, sin: rope_backward(
            q.permute(1, 2, 0, 3), k.permute(1, 2, 0, 3), cos, sin
        )
    except ImportError:
        pass
    return found


def _latent() -> dict[str, Callable[..., Any]]:
    try:
        from megatron.core.models.common.embeddings.rope_utils import _apply_rotary_pos_emb_bshd
    except ImportError:
        return {}

    def megatron(q: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
        freqs = torch.cat([angles, angles], dim=-1)[:, None, None]
        return _apply_rotary_pos_emb_bshd(q, freqs, False, True)

    return {"megatron": megatron}
