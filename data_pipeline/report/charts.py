"""Bars: lists of them that say a number each, and columns over lengths."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from .model import Lengths
from .quantities import count, percent, short, things
from .visible import attribute, visible

_ALL_NAMED = 6  # columns, all of which have room for a name


def bar(name: str, share: float, value: str, tone: str = "") -> str:
    """A line of a list: HTML of its name, a bar of `share` of the width, HTML of its value."""
    width = 100 * min(1.0, max(0.0, share))
    return (
        f'<span class="name">{name}</span>'
        f'<span class="track"><span class="bar {tone}" style="width:{width:.2f}%"></span></span>'
        f'<span class="value">{value}</span>'
    )


def bar_list(rows: Iterable[tuple[str, float, str]], tone: str = "") -> str:
    """Bars under each other; the largest share fills the width. Names and values are HTML."""
    rows = list(rows)
    most = max((share for _, share, _ in rows), default=0) or 1
    lines = (f"<li>{bar(name, share / most, value, tone)}</li>" for name, share, value in rows)
    return f'<ul class="bars">{"".join(lines)}</ul>'


def columns(lengths: Lengths) -> str:
    """The histogram of lengths: a column a bin; below, decades and, with room, their 2 and 5."""
    most = max(lengths.counts, default=0)
    if not most:
        return ""
    bins, names = [], []
    for low, high, documents in zip(lengths.edges, lengths.edges[1:], lengths.counts, strict=False):
        label = f"{count(low)} to {count(high - 1)} characters" if high - low > 1 else count(low)
        height = 100 * documents / most
        bins.append(
            f'<span title="{attribute(label)}: {things(documents, "document")}">'
            f'<span class="bar" style="height:{height:.2f}%"></span></span>'
        )
        names.append(f"<span>{_edge_name(low, len(lengths.counts) <= _ALL_NAMED)}</span>")
    label = f"Documents by length, {count(lengths.shortest)} to {count(lengths.longest)} characters"
    return (
        f'<div class="columns" role="img" aria-label="{label}">{"".join(bins)}</div>'
        f'<div class="axis" aria-hidden="true">{"".join(names)}</div>'
    )


def lengths_caption(lengths: Lengths) -> str:
    """Where the middle of the lengths lies, in words."""
    total = lengths.documents
    low, high = _middle(lengths.counts, lengths.edges)
    return (
        f"Characters of a document, on a logarithmic scale: median between {count(low)} and "
        f"{count(high)}, mean {count(round(lengths.characters / total))}, shortest "
        f"{count(lengths.shortest)}, longest {count(lengths.longest)}."
    )


def language(code: str) -> str:
    """A language by its code, before which report.js writes its name."""
    return f'<span class="language" data-code="{attribute(code)}">{visible(code)}</span>'


def languages(found: dict[str, int], shown: int = 15) -> str:
    """Documents by language, most first."""
    total = sum(found.values())
    ordered = sorted(found.items(), key=lambda one: (-one[1], one[0]))
    rows = [
        (
            language(code),
            documents,
            f"{count(documents)} <small>{percent(documents, total)}</small>",
        )
        for code, documents in ordered
    ]
    text = bar_list(rows[:shown])
    if rows[shown:]:
        rest = sum(int(documents) for _, documents, _ in rows[shown:])
        text += (
            f"<details><summary>{len(rows) - shown} more, {things(rest, 'document')}</summary>"
            f"{bar_list(rows[shown:])}</details>"
        )
    return text


def _edge_name(edge: int, always: bool) -> str:
    digit = edge / 10 ** math.floor(math.log10(edge))
    if digit == 1 or always:
        return f"<b>{short(edge)}</b>"
    return f"<i>{short(edge)}</i>" if digit in (2, 5) and edge >= 20 else ""


def _middle(counts: Sequence[int], edges: Sequence[int]) -> tuple[int, int]:
    seen = 0
    for documents, low, high in zip(counts, edges, edges[1:], strict=False):
        seen += documents
        if 2 * seen >= sum(counts):
            return low, high - 1
    return 0, 0
