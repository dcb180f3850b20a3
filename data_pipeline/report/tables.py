"""The tables of a report: sources, shards, time of every stage, facts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .charts import bar_list
from .model import ShardFacts, SourceFacts, StageFacts
from .quantities import count, duration, percent, size, things
from .visible import attribute, name, visible

_SPLITS = ("train", "validation", "test")


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], total: Sequence[str] = ()) -> str:
    """Cells are HTML; on a phone each row becomes a card whose lines are named by `heads`."""
    body = "".join(f"<tr>{_cells(heads, row)}</tr>" for row in rows)
    foot = f"<tfoot><tr>{_cells(heads, total)}</tr></tfoot>" if total else ""
    top = "".join(f'<th scope="col">{head}</th>' for head in heads)
    return f'<table class="wide"><thead><tr>{top}</tr></thead><tbody>{body}</tbody>{foot}</table>'


def _cells(heads: Sequence[str], row: Sequence[str]) -> str:
    first = f'<th scope="row">{row[0]}</th>'
    rest = zip(heads[1:], row[1:], strict=True)
    return first + "".join(f'<td data-head="{attribute(head)}">{cell}</td>' for head, cell in rest)


def sources(found: Sequence[SourceFacts]) -> str:
    """What was read, and the first problems of each source."""
    if not found:
        return ""
    rows = [
        (name(s.name), count(s.documents), size(s.bytes), count(s.skipped), count(s.empty))
        for s in found
    ]
    sums = [sum(getattr(s, key) for s in found) for key in _SOURCE_SUMS]
    total = ("all", count(sums[0]), size(sums[1]), count(sums[2]), count(sums[3]))
    text = table(
        ("source", "documents", "text", "unreadable", "empty"), rows, total if rows[1:] else ()
    )
    for source in found:
        if source.problems:
            lines = "".join(f"<li>{name(problem)}</li>" for problem in source.problems)
            text += (
                f"<details><summary>What could not be read of {name(source.name)}: "
                f"{things(source.skipped, 'record')}, the first {len(source.problems)} here"
                f'</summary><ol class="problems">{lines}</ol></details>'
            )
    return text


_SOURCE_SUMS = ("documents", "bytes", "skipped", "empty")


def shards(found: Sequence[ShardFacts]) -> str:
    """What training reads, and in which shares."""
    if not found:
        return ""
    weights = sum(shard.weight for shard in found)
    splits = [s for s in _SPLITS if any(s in shard.splits for shard in found)]
    splits += sorted({s for shard in found for s in shard.splits} - set(splits))
    heads = ("shard", "documents", "tokens", "bytes a token", "weight", "share", *splits)
    rows = [
        (
            name(shard.name),
            count(shard.documents),
            count(shard.tokens),
            _ratio(shard.bytes, shard.tokens),
            f"{shard.weight:.4g}",
            percent(shard.weight, weights),
            *(count(shard.splits.get(split, 0)) for split in splits),
        )
        for shard in found
    ]
    total = (
        "all",
        count(sum(shard.documents for shard in found)),
        count(sum(shard.tokens for shard in found)),
        _ratio(sum(shard.bytes for shard in found), sum(shard.tokens for shard in found)),
        f"{weights:.4g}",
        "",
        *(count(sum(shard.splits.get(split, 0) for shard in found)) for split in splits),
    )
    return table(tuple(map(visible, heads)), rows, total if rows[1:] else ())


def _ratio(size_: int, tokens: int) -> str:
    return f"{size_ / tokens:.2f}" if tokens else "–"


def times(stages: Sequence[StageFacts], cpu_seconds: float) -> str:
    """CPU time of every stage, what that is of the whole, and how much text it takes a second."""
    rows = []
    for stage in stages:
        speed = f"{size(stage.bytes_in / stage.seconds)}/s" if stage.seconds else "–"
        value = f"{duration(stage.seconds)} <small>{speed}</small>"
        rows.append((visible(stage.name), stage.seconds, value))
    rest = cpu_seconds - sum(stage.seconds for stage in stages)
    if rest > 0:
        note = "<small>reading, comparing, writing</small>"
        rows.append((f"everything else {note}", rest, f"{duration(rest)} <small></small>"))
    return bar_list(rows)


def facts(found: Mapping[str, Any]) -> str:
    """Names and values."""
    pairs = "".join(
        f"<dt>{visible(key)}</dt><dd>{name(_plain(value))}</dd>" for key, value in found.items()
    )
    return f'<dl class="facts">{pairs}</dl>'


def _plain(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return count(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "–"
    return str(value)
