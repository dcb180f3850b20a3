"""Quantities as the page writes them: a number and its unit stay on one line."""

from __future__ import annotations

from ..units import format_bytes, format_count


def count(value: int) -> str:
    """Every digit: 12,345."""
    return f"{value:,}"


def rounded(value: int) -> str:
    """Every digit of a number of up to five, three of a larger one."""
    return count(value) if value < 100_000 else short(value)


def short(value: float) -> str:
    """Three digits and a prefix: 12.4k, 1.31M."""
    return format_count(value)


def size(value: float) -> str:
    """Bytes in binary units: 512 B, 1.21 MiB."""
    return format_bytes(value).replace(" ", "\u00a0")


def duration(seconds: float) -> str:
    """42 ms, 3.2 s, 12:05, 3:07:00, 2 d 4 h."""
    if seconds < 0.9995:
        return f"{1000 * seconds:.3g}\u00a0ms" if seconds > 0 else "0\u00a0s"
    if seconds < 59.95:
        return f"{seconds:.1f}\u00a0s"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24}\u00a0d {hours % 24}\u00a0h"
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def percent(part: float, whole: float) -> str:
    """A share: 43 %, 4.2 %, 0.03 %; a dash of nothing. Only all is 100 %, only none is 0 %."""
    if not whole:
        return "–"
    share = 100 * part / whole
    if 0 < share < 0.001:
        return "under\u00a00.001\u00a0%"
    if 99.9 < share < 100:
        return "over\u00a099.9\u00a0%"
    if 0 < share < 0.1:
        return f"{share:.1g}\u00a0%"
    return (
        f"{share:.0f}\u00a0%" if 9.95 <= share <= 99 or share in (0, 100) else f"{share:.1f}\u00a0%"
    )


def things(number: int, noun: str) -> str:
    """A number of things: 1 document, 2,000 documents."""
    return f"{count(number)} {noun}{'' if number == 1 else 's'}"
