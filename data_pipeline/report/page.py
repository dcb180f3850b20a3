"""report.json and report.html: a recipe that was run, told on one page that needs no network."""

from __future__ import annotations

import json
from pathlib import Path

from ..files import write_atomic
from ..readers.options import printable
from . import charts, tables
from .drops import drops
from .duplicates import duplicates
from .flow import flow
from .model import Report
from .quantities import count, duration, percent, rounded, size, things
from .recipe_text import recipe_text
from .visible import visible

DATA, PAGE = "report.json", "report.html"


def write_report(report: Report, folder: Path) -> Path:
    """Write report.json, then report.html, each whole or not at all; gives the page.

    Half surrogates, which names of files may hold and UTF-8 may not, become U+FFFD in the JSON.
    """
    content = json.dumps(report.to_json(), ensure_ascii=False, indent=1)
    write_atomic(folder / DATA, f"{printable(content)}\n".encode())
    write_atomic(folder / PAGE, render(report).encode())
    return folder / PAGE


def render(report: Report) -> str:
    """The page as text."""
    here = Path(__file__).parent
    sections = [
        _section("stages", "From sources to documents", _FLOW, flow(report)),
        _section("dropped", "What was dropped, and why", _DROPPED, drops(report.stages)),
        _section("documents", "What stayed", "", _documents(report)),
        _section("duplicates", "Near-duplicates", _DUPLICATES, duplicates(report.clusters)),
        _section("shards", "Shards", "", tables.shards(report.shards)),
        _section("time", "Where the time went", _TIME, _times(report)),
        _section("sources", "Sources", "", tables.sources(report.sources)),
        _section("recipe", "How it was made", "", _recipe(report)),
    ]
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{visible(report.title)} · Trivium</title>",
            f"<style>{(here / 'report.css').read_text(encoding='utf-8')}</style></head><body>",
            f"<header><h1>{visible(report.title)}</h1><p>{_summary(report)}</p></header>",
            _figures(report),
            *(section for section in sections if section),
            _FOOTER,
            f"<script>{(here / 'report.js').read_text(encoding='utf-8')}</script></body></html>\n",
        ]
    )


_FLOW = "What every stage was given and what it passed on; what it dropped turns off to the right."
_DROPPED = "All bars on one scale. Open a reason to read documents that fell to it."
_DUPLICATES = (
    "The largest clusters, from just before the first word in which their members differ. "
    "<ins>Marked</ins>: not in the document that is kept; <del>struck out</del>: only there."
)
_FOOTER = (
    f'<footer>Written by Trivium from <a href="{DATA}">{DATA}</a>. Bytes are of UTF-8 text, speeds '
    "a second of one CPU.</footer>"
)
_TIME = "CPU time of each stage, and how much text it takes a second."


def _section(id: str, title: str, note: str, content: str) -> str:
    if not content:
        return ""
    told = f'<p class="aside">{note}</p>' if note else ""
    return f'<section id="{id}"><h2>{title}</h2>{told}{content}</section>'


# --- The top of the page ------------------------------------------------------


def documents_read(report: Report) -> int:
    """Documents that reading gave."""
    if report.sources:
        return sum(source.documents for source in report.sources)
    return report.stages[0].documents_in if report.stages else 0


def documents_left(report: Report) -> tuple[int, int]:
    """(documents, bytes) after the last stage."""
    if report.stages:
        return report.stages[-1].documents_out, report.stages[-1].bytes_out
    return documents_read(report), sum(source.bytes for source in report.sources)


def _summary(report: Report) -> str:
    """The whole in two sentences."""
    read, (left, _) = documents_read(report), documents_left(report)
    text = f"Of {things(read, 'document')}, {count(left)} stayed ({percent(left, read)})."
    reasons = [
        (documents, stage.name, reason)
        for stage in report.stages
        for reason, documents in stage.dropped.items()
    ]
    if reasons:
        documents, stage, reason = max(reasons)
        text += (
            f" Most that were dropped fell to <b>{visible(stage)}</b>: {visible(reason)} "
            f"({count(documents)})."
        )
    return text


def _figures(report: Report) -> str:
    left, size_ = documents_left(report)
    tokens = sum(shard.tokens for shard in report.shards)
    read_bytes = sum(source.bytes for source in report.sources)
    cells = [("Documents", rounded(left), f"of {rounded(documents_read(report))} read")]
    if size_ or read_bytes:
        cells.append(("Text", size(size_), f"of {size(read_bytes)} read" if read_bytes else ""))
    if tokens:
        ratio = sum(shard.bytes for shard in report.shards) / tokens
        cells.append(("Tokens", rounded(tokens), f"{ratio:.2f} bytes a token"))
    if report.languages:
        code, most = max(report.languages.items(), key=lambda one: (one[1], one[0]))
        note = f"{percent(most, sum(report.languages.values()))} {charts.language(code)}"
        cells.append(("Languages", str(len(report.languages)), note))
    if report.cpu_seconds:
        wall = f"{duration(report.wall_seconds)} by the clock" if report.wall_seconds else ""
        cells.append(("CPU time", duration(report.cpu_seconds), wall))
        if read_bytes:
            speed = f"{size(read_bytes / report.cpu_seconds)}/s"
            cells.append(("Speed", speed, "of text read, a CPU"))
    figures = "".join(
        f'<div><dt>{title}</dt><dd class="value">{value}</dd><dd class="note">{note}</dd></div>'
        for title, value, note in cells
    )
    return f'<dl class="figures">{figures}</dl>'


# --- Sections -----------------------------------------------------------------


def _documents(report: Report) -> str:
    figures = []
    if report.lengths.documents:
        caption = charts.lengths_caption(report.lengths)
        figures.append(
            f"<figure><h3>Length</h3><figcaption>{caption}</figcaption>"
            f"{charts.columns(report.lengths)}</figure>"
        )
    if report.languages:
        asked = sum(report.languages.values())
        note = f"{things(asked, 'document')}, each by the one language it is most likely in."
        figures.append(
            f"<figure><h3>Language</h3><figcaption>{note}</figcaption>"
            f"{charts.languages(report.languages)}</figure>"
        )
    return f'<div class="pair">{"".join(figures)}</div>' if figures else ""


def _times(report: Report) -> str:
    return tables.times(report.stages, report.cpu_seconds) if report.stages else ""


def _recipe(report: Report) -> str:
    parts = []
    if report.recipe:
        recipe = visible(recipe_text(report.recipe))
        parts.append(f'<h3>Recipe</h3><pre tabindex="0">{recipe}</pre>')
    for title, found in (("Tokenizer", report.tokenizer), ("Versions", report.versions)):
        if found:
            parts.append(f"<h3>{title}</h3>{tables.facts(found)}")
    return "".join(parts)
