"""Quantities as people read them: three digits and a unit."""

from __future__ import annotations

from trivium.data_pipeline.units import format_bytes, format_count

__all__ = ["format_bytes", "format_count", "format_flops", "format_seconds"]


def format_seconds(seconds: float | None) -> str:
    """0:42, 12:05, 3:07:00, 2 d 4 h; a dash when it is not known."""
    if seconds is None:
        return "-"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def format_flops(rate: float) -> str:
    """FLOP/s with a prefix: 989.4 TFLOP/s."""
    for size, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G")):
        if rate >= size:
            return f"{rate / size:.4g} {prefix}FLOP/s"
    return f"{rate / 1e6:.4g} MFLOP/s"
