"""Numbers and bytes as people read them: three digits and a unit."""

from __future__ import annotations


def format_count(value: float) -> str:
    """Three digits and a prefix: 12.4k, 1.31M."""
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * size:
            return f"{value / size:.3g}{prefix}"
    return f"{value:.3g}"


def format_bytes(size: float) -> str:
    """Binary units: 512 MiB, 1.21 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} TiB" if size < 999.5 else f"{size:,.0f} TiB"
