"""Quality filters: CPU seconds against datatrove's, and whether they decide alike.

    python -m tools.benchmarks.data_filters [passes=4] [texts='[FILES]'] [out=FILE]

English documents (`language` says so) are cut into parts of about 8,000 characters at empty lines;
where that is more than `megabytes`, every second, third, ... part is taken. datatrove is as it
comes: its filters with their defaults, whose words are tokens of spaCy; only `filter` is timed,
without its readers, writers and statistics. Needs datatrove and spaCy. `same` are the shares of
documents with the same decision (to keep or to drop), and with the same reason; `other text` counts
those that both keep, but not with the same text.
"""

from __future__ import annotations

import importlib
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import orjson

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
from trivium.data_pipeline.documents import PYTHON_DOCS, read_documents
from trivium.data_pipeline.errors import InputError
from trivium.data_pipeline.stages.c4 import C4Rules
from trivium.data_pipeline.stages.fineweb import FineWebRules
from trivium.data_pipeline.stages.gopher import GopherQuality, GopherRepetition
from trivium.data_pipeline.stages.language import LanguageId
from trivium.data_pipeline.stages.stage import Stage, batch
from trivium.data_pipeline.stages.tally import run_stages

PEER = "datatrove"
TIMES = 20.0  # of the peer's CPU seconds
ALIKE = 0.999  # of all decisions
TOGETHER = 256  # documents of a batch, as in a pipeline
CHARACTERS = 8000  # of a part

# In the order of FineWeb; datatrove's class and ours
PAIRS: dict[str, tuple[str, Stage]] = {
    "repetition": ("GopherRepetitionFilter", GopherRepetition()),
    "quality": ("GopherQualityFilter", GopherQuality()),
    "c4": ("C4QualityFilter", C4Rules()),
    "fineweb": ("FineWebQualityFilter", FineWebRules()),
}
IN_A_ROW = "all four in a row"
FILTERS = (*PAIRS, IN_A_ROW)

REASONS = {
    "gopher_short_doc": "too few words",
    "gopher_long_doc": "too many words",
    "gopher_below_avg_threshold": "words too short",
    "gopher_above_avg_threshold": "words too long",
    "gopher_too_many_hashes": "too many hashes",
    "gopher_too_many_ellipsis": "too many ellipses",
    "gopher_too_many_bullets": "too many bullet lines",
    "gopher_too_many_end_ellipsis": "too many lines end in an ellipsis",
    "gopher_below_alpha_threshold": "too few words with a letter",
    "gopher_enough_stop_words": "too few stop words",
    "dup_para_frac": "too many repeated paragraphs",
    "dup_para_char_frac": "too much text in repeated paragraphs",
    "dup_line_frac": "too many repeated lines",
    "dup_line_char_frac": "too much text in repeated lines",
    "lorem_ipsum": "lorem ipsum",
    "curly_bracket": "curly bracket",
    "too_few_sentences": "too few sentences",
    "empty": "empty",
    "line_punct_ratio": "too few lines end a sentence",
    "short_line_ratio": "too many short lines",
    "char_dup_ratio": "too much text in repeated lines",
    "list_ratio": "too many newlines",
    **{f"top_{n}_gram": f"too much text in one {n}-gram" for n in (2, 3, 4)},
    **{f"duplicated_{n}_n_grams": f"too much text in repeated {n}-grams" for n in range(5, 11)},
}

Outcome = tuple[str | None, str]  # the reason of a drop, in our words; the text

_CORPUS = "corpus.jsonl"
_KNOWN = (
    "c4_sample.jsonl.gz",
    "classic_books_en.jsonl.gz",
    "openstax_biology_en.jsonl.gz",
    "python_peps_en.jsonl.gz",
    "wikipedia_sample.txt",
    "wikitext2_valid.txt",
)


@dataclass(frozen=True, kw_only=True)
class AskedFilters(Asked):
    """What to measure the filters on."""

    megabytes: float = 4.0  # of text, at most


def prepare(asked: AskedFilters, folder: Path) -> dict[str, Any]:
    """English parts of documents into `folder`."""
    known = tuple(str(SHARED / name) for name in _KNOWN if (SHARED / name).is_file())
    sources = asked.texts or known or (PYTHON_DOCS,)
    if asked.tiny:
        found = _first_parts(sources, 40)
    else:
        found = english_parts(document.text for document in read_documents(sources))
    if not found:
        raise InputError("no English text to measure with: name other files in texts")
    size = sum(len(text.encode()) for text in found)
    found = found[:: max(1, -int(-size // (asked.megabytes * 1e6)))]
    with (folder / _CORPUS).open("wb") as lines:
        for text in found:
            lines.write(orjson.dumps(text) + b"\n")
    names = " ".join(Path(source).name for source in sources)
    size = sum(len(text.encode()) for text in found)
    return {"sources": names, "documents": len(found), "bytes": size}


def _first_parts(sources: tuple[str, ...], most: int) -> list[str]:
    found: list[str] = []
    for document in read_documents(sources):
        found += english_parts(iter([document.text]))
        if len(found) >= most:
            break
    return found[:most]


def judge(found: Any, folder: Path) -> dict[str, Any]:
    """Of (outcomes, texts): reasons by the number of the document, and a sum of texts changed."""
    outcomes, texts = found
    return {
        "dropped": {
            str(number): reason for number, (reason, _) in enumerate(outcomes) if reason is not None
        },
        "changed": {
            str(number): zlib.crc32(text.encode())
            for number, ((reason, text), given) in enumerate(zip(outcomes, texts, strict=True))
            if reason is None and text != given
        },
    }


def match(documents: int, ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """Shares and counts of where two judgements of the same documents agree."""
    mine, others = ours["dropped"], theirs["dropped"]
    either = mine.keys() | others.keys()
    decisions = len(mine.keys() ^ others.keys())
    differences = Counter(
        f"{others.get(number)} -> {mine.get(number)}"
        for number in either
        if mine.get(number) != others.get(number)
    )
    changed = (ours["changed"].keys() | theirs["changed"].keys()) - either
    return {
        "dropped": len(others),
        "equal_decisions": 1 - decisions / documents,
        "equal_reasons": 1 - differences.total() / documents,
        "other_decisions": decisions,
        "other_texts": sum(
            ours["changed"].get(number) != theirs["changed"].get(number) for number in changed
        ),
        "differences": dict(differences.most_common()),
    }


def compare(documents: Sequence[str]) -> dict[str, Any]:
    """`match` by filter, each run alone on every document, and of all four in a row; untimed."""
    figures = {}
    for name in FILTERS:
        ours, theirs = (
            judge((run(name, documents), documents), Path()) for run in (run_ours, run_theirs)
        )
        figures[name] = match(len(documents), ours, theirs)
    return {"filters": figures}


def _texts(folder: Path) -> list[str]:
    with (folder / _CORPUS).open("rb") as lines:
        return [orjson.loads(line) for line in lines]


def run_ours(name: str, texts: Sequence[str]) -> list[Outcome]:
    """A filter's outcome of each text, or that of all in a row."""
    found: list[Outcome] = []
    for first in range(0, len(texts), TOGETHER):
        part = texts[first : first + TOGETHER]
        if name != IN_A_ROW:
            verdict = PAIRS[name][1](batch(part))
            kept = verdict.documents.column("text").to_pylist()
            found += zip(verdict.reasons.to_pylist(), kept, strict=True)
            continue
        left, _ = run_stages(batch(part), [(each, PAIRS[each][1]) for each in PAIRS])
        rows = {row["id"]: row["text"] for row in left.select(["id", "text"]).to_pylist()}
        ids = (str(number) for number in range(len(part)))
        found += [(None, rows[one]) if one in rows else ("dropped", "") for one in ids]
    return found


def run_theirs(name: str, texts: Sequence[str]) -> list[Outcome]:
    """The same by datatrove."""
    filters = [_filter(PAIRS[each][0]) for each in (PAIRS if name == IN_A_ROW else (name,))]
    document_class = importlib.import_module("datatrove.data").Document
    found: list[Outcome] = []
    for text in texts:
        document = document_class(text=text, id="")
        verdict: Any = True
        for one in filters:
            verdict = one.filter(document)
            if verdict is not True:
                break
        if verdict is True:
            found.append((None, document.text))
        else:
            found.append(("dropped" if name == IN_A_ROW else REASONS[verdict[1]], ""))
    return found


@cache
def _filter(name: str) -> Any:
    return getattr(importlib.import_module("datatrove.pipeline.filters"), name)()


def english_parts(texts: Iterable[str]) -> list[str]:
    """Those of `texts` that are English, cut at empty lines into parts of about `CHARACTERS`."""
    judge = LanguageId(languages={"en": 0.65})
    found: list[str] = []
    for text in texts:
        if judge(batch([text])).reasons.null_count:
            found += _parts(text)
    return found


def _parts(text: str) -> Iterator[str]:
    paragraphs, size = [], 0
    for paragraph in text.split("\n\n"):
        paragraphs.append(paragraph)
        size += len(paragraph) + 2
        if size >= CHARACTERS:
            yield "\n\n".join(paragraphs)
            paragraphs, size = [], 0
    if any(paragraph.strip() for paragraph in paragraphs):
        yield "\n\n".join(paragraphs)


def _contestant(
    run: Callable[[str, Sequence[str]], list[Outcome]], name: str
) -> Callable[[Path], Work]:
    def ready(folder: Path) -> Work:
        texts = _texts(folder)
        run(name, texts[:5])
        return lambda: (run(name, texts), texts)

    return ready


def report(passes: Passes, facts: dict[str, Any]) -> Report:
    """The table, how many times faster each filter is, and whether they decide alike."""
    rows, ratios, failures = [], [], []
    for name, turn in passes[0].items():
        who, _, what = name.partition(" ")
        cpu = seconds(passes, name)
        row = [name, spread(cpu), spread([facts["bytes"] / 1e6 / one for one in cpu])]
        row.append(str(len(turn.result["dropped"])))
        peer = f"{PEER} {what}"
        if who == OURS and peer in passes[0]:
            found = match(facts["documents"], turn.result, passes[0][peer].result)
            row += [f"{found['equal_decisions']:.2%}", f"{found['equal_reasons']:.2%}"]
            row.append(str(found["other_texts"]))
            ratios.append(Ratio(f"CPU s, {peer} / {OURS}", quotient(passes, peer, name), TIMES))
            if found["equal_decisions"] < ALIKE:
                wrong, all_of_them = found["other_decisions"], facts["documents"]
                failures.append(f"{what}: {wrong} of {all_of_them} decisions differ MISSED")
        rows.append(row + [""] * (7 - len(row)))
    head = ["", "CPU s", "MB/s", "dropped", "same decision", "same reason", "other text"]
    return Report(head, rows, ratios, failures)


PART = Part(
    "tools.benchmarks.data_filters",
    {
        **{
            f"{OURS} {name}": Contestant(
                _contestant(run_ours, name), "numba", "pip install 'trivium[data]'"
            )
            for name in FILTERS
        },
        **{
            f"{PEER} {name}": Contestant(
                _contestant(run_theirs, name), PEER, "pip install 'datatrove[processing]' spacy"
            )
            for name in FILTERS
        },
    },
    prepare,
    judge,
    report,
    AskedFilters,
)

if __name__ == "__main__":
    sys.exit(main(PART))
