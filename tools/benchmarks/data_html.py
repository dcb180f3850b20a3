"""Text of the main content of web pages: CPU seconds and F1 against trafilatura.

    python -m tools.benchmarks.data_html [passes=4] [texts='[FILES]'] [out=FILE]

Pages are real documents in six kinds of frames (`pages.py`); what the frames enclose is the truth.
`texts` are documents, Markdown if their file or their id ends in .md; or a clone of
github.com/scrapinghub/article-extraction-benchmark, the folder that holds `ground-truth.json`:
pages of news sites whose articles people copied out; or a folder of pages made by Sphinx, which
marks the element that holds the content (Debian's python3-doc is one; its indices are left out).
With none of these, the descriptions of the packages that are installed here, which are Markdown.
F1 is of the words of a page, each as often as it is there, and the mean over pages.

trafilatura runs as `extract(html)`, and once more with `fast=True`, which leaves out its fallbacks.
"""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from statistics import mean
from typing import Any

import orjson
import pyarrow as pa

from tools.benchmarks import pages
from tools.benchmarks.turns import (
    OURS,
    SHARED,
    Asked,
    Contestant,
    Part,
    Passes,
    Ratio,
    Report,
    Work,
    main,
    quotient,
    seconds,
    spread,
)
from trivium.data_pipeline.documents import read_documents
from trivium.data_pipeline.errors import InputError

PEER = "trafilatura"
TIMES = 15.0  # of the peer's CPU seconds
WITHIN = 0.005  # of the peer's F1
MOST = 1500  # pages
LENGTHS = range(500, 60_000)  # characters of a document
TOGETHER = 256  # pages of a batch

_PAGES, _TRUTH, _GOLD = "pages.jsonl", "truth.jsonl", "ground-truth.json"
_INDICES = ("genindex", "py-modindex", "search")  # names of pages of links
_KNOWN = ("debian_handbook_26_languages.jsonl.gz", "openstax_biology_en.jsonl.gz")


def prepare(asked: Asked, folder: Path) -> dict[str, Any]:
    """Pages and the text of their content into `folder`."""
    known = tuple(str(SHARED / name) for name in _KNOWN if (SHARED / name).is_file())
    sources = asked.texts or known
    found = sorted(Path(sources[0]).rglob("*.html")) if len(sources) == 1 else []
    if len(sources) == 1 and (Path(sources[0]) / _GOLD).is_file():
        made = list(_gold(Path(sources[0])))
    elif found:
        made = list(_marked(found[:: max(1, len(found) // MOST)]))
    else:
        given = list(_documents(sources) if sources else _descriptions())
        given = [one for one in given if len(one[0]) in LENGTHS]
        most = 12 if asked.tiny else MOST
        given = given[:: max(1, -(-len(given) // most))]
        made = pages.pages([text for text, _ in given], [markdown for _, markdown in given], seed=1)
    if not made:
        raise InputError("no documents to make pages of: name other files in texts")
    with (folder / _PAGES).open("wb") as html, (folder / _TRUTH).open("wb") as truth:
        for page in made:
            html.write(orjson.dumps(page.html) + b"\n")
            truth.write(orjson.dumps([page.kind, page.content]) + b"\n")
    names = " ".join(Path(source).name for source in sources) or "descriptions of packages"
    return {
        "sources": names,
        "pages": len(made),
        "bytes": sum(len(page.html.encode()) for page in made),
    }


def _documents(sources: tuple[str, ...]) -> Iterator[tuple[str, bool]]:
    for document in read_documents(sources):
        yield document.text, document.id.endswith(".md") or document.source.endswith(".md")


def _descriptions() -> Iterator[tuple[str, bool]]:
    found: dict[str, str] = {}
    for package in metadata.distributions():
        fields = package.metadata.json
        if str(fields.get("description_content_type", "")).startswith("text/markdown"):
            found[str(fields["name"])] = str(fields.get("description", ""))
    for name in sorted(found):
        yield found[name], True


def _gold(folder: Path) -> Iterator[pages.Page]:
    gold = json.loads((folder / _GOLD).read_text(encoding="utf-8"))
    for name, record in sorted(gold.items()):
        with gzip.open(folder / "html" / f"{name}.html.gz") as html:
            text = html.read().decode("utf-8", "replace")
        yield pages.Page(text, record["articleBody"], "article")


def _marked(paths: list[Path]) -> Iterator[pages.Page]:
    for path in paths:
        if path.stem.startswith(_INDICES):
            continue
        html = path.read_text(encoding="utf-8", errors="replace")
        content = pages.main_of(html)
        if len(content) in LENGTHS:
            yield pages.Page(html, content, "Sphinx")


def _lines(path: Path) -> list[Any]:
    with path.open("rb") as lines:
        return [orjson.loads(line) for line in lines]


def judge(texts: Any, folder: Path) -> dict[str, Any]:
    """F1 of the words of `texts`, a text for each page: of all pages and of every kind."""
    scores: dict[str, list[float]] = {}
    for found, (kind, true) in zip(texts, _lines(folder / _TRUTH), strict=True):
        scores.setdefault(kind, []).append(pages.f1(pages.words(found), pages.words(true)))
    return {
        "f1": mean(score for of_kind in scores.values() for score in of_kind),
        "kinds": {kind: mean(scores[kind]) for kind in sorted(scores)},
        "empty": sum(not text.strip() for text in texts),
    }


def trivium(folder: Path) -> Work:
    """The stage `html_to_text` over batches."""
    from trivium.data_pipeline.stages.cleaning import HtmlToText
    from trivium.data_pipeline.stages.stage import batch

    html = _lines(folder / _PAGES)
    stage = HtmlToText()
    stage(batch(html[:5]))
    firsts = range(0, len(html), TOGETHER)
    batches: list[pa.Table] = [batch(html[first : first + TOGETHER]) for first in firsts]

    def work() -> list[str]:
        found = [stage(part).documents.column("text") for part in batches]
        return [text for column in found for text in column.to_pylist()]

    return work


def _trafilatura(**options: Any) -> Callable[[Path], Work]:
    def ready(folder: Path) -> Work:
        import logging

        from trafilatura import extract

        logging.disable()
        html = _lines(folder / _PAGES)
        for page in html[:5]:
            extract(page, **options)
        return lambda: [extract(page, **options) or "" for page in html]

    return ready


def report(passes: Passes, facts: dict[str, Any]) -> Report:
    """The table, how many times faster, and whether F1 keeps up."""
    rows = []
    for name, turn in passes[0].items():
        cpu = seconds(passes, name)
        rate = spread([facts["pages"] / one for one in cpu])
        scores = [turn.result["f1"], *turn.result["kinds"].values()]
        rows.append([name, spread(cpu), rate, *(f"{score:.4f}" for score in scores)])
    peers = [name for name in PART.contestants if name != OURS and name in passes[0]]
    ratios = [
        Ratio(
            f"CPU s, {peer} / {OURS}", quotient(passes, peer, OURS), TIMES if peer == PEER else None
        )
        for peer in peers
    ]
    failures = []
    if PEER in passes[0]:
        ours, theirs = (passes[0][name].result["f1"] for name in (OURS, PEER))
        if ours < theirs - WITHIN:
            failures.append(f"F1 {ours:.4f} MISSED: more than {WITHIN} below {theirs:.4f}")
    kinds = passes[0][OURS].result["kinds"]
    return Report(["", "CPU s", "pages/CPU s", "F1", *kinds], rows, ratios, failures)


PART = Part(
    "tools.benchmarks.data_html",
    {
        OURS: Contestant(trivium, "resiliparse", "pip install 'trivium[data]'"),
        PEER: Contestant(_trafilatura(), PEER),
        f"{PEER}, fast": Contestant(_trafilatura(fast=True), PEER),
    },
    prepare,
    judge,
    report,
)

if __name__ == "__main__":
    sys.exit(main(PART))
