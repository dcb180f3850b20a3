"""Documents on their way through the stages, drawn as a stream that narrows.

One row a stage: what enters flows down, what is dropped turns off to the right and fades. The rows
are text beside a drawing that stretches with them, so that the picture fits any width; the colours
are the style sheet's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .model import Report, SourceFacts, StageFacts
from .quantities import count, percent, size, things
from .visible import visible

_WIDE, _HIGH = 1000.0, 100.0  # of a row's drawing, before it is stretched
_LEAST = 3.0  # width of whatever is not nothing
# The paint of what is dropped, once for all drawings.
_FADE = (
    '<svg class="fade" aria-hidden="true" width="0" height="0"><defs>'
    '<linearGradient id="lost" x1="0" y1="0" x2="0" y2="1">'
    '<stop class="from" offset="0"/><stop class="to" offset="1"/></linearGradient></defs></svg>'
)


@dataclass(frozen=True)
class _Step:
    name: str  # HTML
    documents: tuple[int, int]  # in, out
    bytes: tuple[int, int]
    facts: str
    lost: str = ""


def flow(report: Report) -> str:
    """The stream, with a switch from documents to bytes."""
    steps = [*_read(report.sources), *(map(_step, range(len(report.stages)), report.stages))]
    if not steps:
        return ""
    steps.append(_left(report, steps[-1]))
    most_documents = max(max(step.documents) for step in steps) or 1
    most_bytes = max(max(step.bytes) for step in steps) or 1
    rows = []
    for step in steps:
        rows.append(
            f'<li><div class="what"><h3>{step.name}</h3><p>{step.facts}</p></div>'
            f'<div class="stream">{_stream(*step.documents, most_documents, "documents")}'
            f"{_stream(*step.bytes, most_bytes, 'bytes')}</div>"
            f'<div class="lost">{step.lost}</div></li>'
        )
    return f"{_FADE}{_SWITCH}<ol>{''.join(rows)}</ol>"


_SWITCH = (
    "<fieldset><legend>Width of the stream</legend>"
    '<label><input type="radio" name="unit" id="by-documents" checked> documents</label> '
    '<label><input type="radio" name="unit" id="by-bytes"> bytes</label></fieldset>'
)


def _read(sources: Sequence[SourceFacts]) -> list[_Step]:
    """The sources as the first row."""
    if not sources:
        return []
    documents = sum(one.documents for one in sources)
    skipped, empty = sum(one.skipped for one in sources), sum(one.empty for one in sources)
    size_ = sum(one.bytes for one in sources)
    left_out = ((skipped, "unreadable"), (empty, "empty"))
    told = [f"{count(number)} {what}" for number, what in left_out if number]
    lost = f"<b>−{count(skipped + empty)}</b><small>{', '.join(told)}</small>" if told else ""
    facts = f"{things(len(sources), 'source')}, {things(documents, 'document')}, {size(size_)}"
    name = '<a href="#sources">read</a>'
    return [_Step(name, (documents + skipped + empty, documents), (size_, size_), facts, lost)]


def _step(number: int, stage: StageFacts) -> _Step:
    facts = [
        f"{_to(count(stage.documents_in), count(stage.documents_out))} documents",
        _to(size(stage.bytes_in), size(stage.bytes_out)),
    ]
    if stage.changed:
        facts.append(f"{count(stage.changed)} changed")
    gone = stage.documents_in - stage.documents_out
    lost = ""
    if gone:
        lost = f"<b>−{count(gone)}</b><small>{percent(gone, stage.documents_in)}</small>"
    name = visible(stage.name)
    if stage.dropped:
        name = f'<a href="#stage-{number}">{name}</a>'
    return _Step(
        name,
        (stage.documents_in, stage.documents_out),
        (stage.bytes_in, stage.bytes_out),
        "<br>".join(facts),
        lost,
    )


def _left(report: Report, last: _Step) -> _Step:
    """What came of it all, as the last row."""
    (_, documents), (_, bytes_) = last.documents, last.bytes
    facts = f"{things(documents, 'document')}, {size(bytes_)}"
    tokens = sum(shard.tokens for shard in report.shards)
    if tokens:
        facts += f"<br>{count(tokens)} tokens in {things(len(report.shards), 'shard')}"
    name = '<a href="#documents">stayed</a>' if report.lengths.documents else "stayed"
    return _Step(name, (documents, documents), (bytes_, bytes_), facts)


def _to(before: str, after: str) -> str:
    """Both ends of a change, or what stayed as it was."""
    return before if before == after else f"{before} → {after}"


def _stream(entering: int, leaving: int, most: int, unit: str) -> str:
    """One row's drawing: the stream on the left, what turns off it on the right."""
    top, bottom = (max(_LEAST * (n > 0), _WIDE * n / most) for n in (entering, leaving))
    half = _HIGH / 2
    paths = ""
    if entering > leaving:
        width = max(_LEAST, top - bottom)
        left, right = top - width, _WIDE - width
        paths = (
            f'<path class="turned" d="M{left:.1f} 0H{top:.1f}C{top:.1f} {half} {_WIDE} {half} '
            f"{_WIDE} {_HIGH}H{right:.1f}C{right:.1f} {half} {left:.1f} {half} "
            f'{left:.1f} 0Z"/>'
        )
    paths += (
        f'<path class="stays" d="M0 0H{top:.1f}C{top:.1f} {half} {bottom:.1f} {half} '
        f'{bottom:.1f} {_HIGH}H0Z"/>'
    )
    return (
        f'<svg class="{unit}" viewBox="0 0 {_WIDE:.0f} {_HIGH:.0f}" preserveAspectRatio="none" '
        f'aria-hidden="true">{paths}</svg>'
    )
