"""Why documents were dropped, with examples of every reason."""

from __future__ import annotations

from collections.abc import Sequence

from ..stages.tally import EXAMPLE_CHARACTERS, EXAMPLES, Example
from .charts import bar
from .model import StageFacts
from .quantities import count, percent, things
from .visible import attribute, name, passage, visible


def drops(stages: Sequence[StageFacts]) -> str:
    """A section a stage that dropped any, the bars of all on one scale."""
    most = max((max(stage.dropped.values(), default=0) for stage in stages), default=0)
    if not most:
        return ""
    found = (_stage(number, stage, most) for number, stage in enumerate(stages) if stage.dropped)
    return "".join(found)


def _stage(number: int, stage: StageFacts, most: int) -> str:
    total = sum(stage.dropped.values())
    share = percent(total, stage.documents_in)
    reasons = sorted(stage.dropped.items(), key=lambda one: (-one[1], one[0]))
    return (
        f'<section class="drops" id="stage-{number}"><h3>{visible(stage.name)} <small>'
        f"{things(total, 'document')}, {share} of what it was given</small></h3>"
        + "".join(
            _reason(reason, documents, most, total, stage.examples.get(reason, ()))
            for reason, documents in reasons
        )
        + "</section>"
    )


def _reason(reason: str, documents: int, most: int, total: int, examples: Sequence[Example]) -> str:
    value = f"{count(documents)} <small>{percent(documents, total)}</small>"
    line = bar(visible(reason), documents / most, value, "out")
    if not examples:
        return f'<div class="reason">{line}</div>'
    shown = examples[:EXAMPLES]
    which = "all" if len(shown) == documents else f"{len(shown)} of {count(documents)}"
    cards = "".join(map(_example, shown))
    return (
        f'<details class="reason"><summary>{line}</summary>'
        f'<p class="aside">Examples, {which}: how the documents begin, as they came to this stage.'
        f'</p><ol class="examples">{cards}</ol></details>'
    )


def _example(example: Example) -> str:
    text = example.text[:EXAMPLE_CHARACTERS]
    more = "…" if len(example.text) >= EXAMPLE_CHARACTERS else ""
    return f"<li>{place(example.source, example.id)}{passage(text + more)}</li>"


def place(source: str, id: str) -> str:
    """Where a document came from: its id, and its file, whose whole path is a tooltip."""
    end = "/".join(source.split("/")[-2:])
    return (
        f'<p class="place">{name(id)}<span class="file" title="{attribute(source)}">{name(end)}'
        "</span></p>"
    )
