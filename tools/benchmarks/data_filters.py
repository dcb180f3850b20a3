"""Quality filters: documents per CPU second of ours against datatrove's, and whether they agree.

    python -m tools.benchmarks.data_filters FILE ...     (text, JSON lines; see documents.py)

English documents (`language` says so) are cut into parts of about 8,000 characters at empty lines.
Both run in this process, batch by batch in turns (ours, theirs, ours), after a batch of each that
is not counted. datatrove is as it comes: its filters with their defaults, whose words are tokens of
spaCy; only `filter` is timed, without its readers, writers and statistics. Needs datatrove and
spaCy.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from trivium.data_pipeline.documents import read_documents
from trivium.data_pipeline.errors import InputError, fail_clean
from trivium.data_pipeline.stages.c4 import C4Rules
from trivium.data_pipeline.stages.fineweb import FineWebRules
from trivium.data_pipeline.stages.gopher import GopherQuality, GopherRepetition
from trivium.data_pipeline.stages.language import LanguageId
from trivium.data_pipeline.stages.stage import Stage, batch
from trivium.data_pipeline.stages.tally import run_stages

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


@dataclass
class Match:
    """What the batches of one filter added up to."""

    ours: float = 0.0  # CPU seconds
    theirs: float = 0.0
    documents: int = 0
    dropped: int = 0  # by datatrove
    other_decisions: int = 0
    other_reasons: int = 0  # other decisions too
    other_texts: int = 0  # of documents that both keep
    differences: Counter[str] = field(default_factory=Counter)  # "theirs -> ours"

    def add(self, ours: Sequence[Outcome], theirs: Sequence[Outcome]) -> None:
        """Count where they differ."""
        for (reason, text), (expected, other) in zip(ours, theirs, strict=True):
            self.documents += 1
            self.dropped += expected is not None
            self.other_decisions += (reason is None) != (expected is None)
            self.other_texts += reason is None and expected is None and text != other
            if reason != expected:
                self.other_reasons += 1
                self.differences[f"{expected} -> {reason}"] += 1

    def figures(self, megabytes: float) -> dict[str, Any]:
        """Speeds and shares."""
        return {
            "ratio": self.theirs / self.ours,
            "documents_per_second": self.documents / self.ours,
            "megabytes_per_second": megabytes / self.ours,
            "theirs_megabytes_per_second": megabytes / self.theirs,
            "dropped": self.dropped,
            "equal_decisions": 1 - self.other_decisions / self.documents,
            "equal_reasons": 1 - self.other_reasons / self.documents,
            "other_decisions": self.other_decisions,
            "other_texts": self.other_texts,
            "differences": dict(self.differences.most_common()),
        }


def compare(documents: Sequence[str]) -> dict[str, Any]:
    """Figures by filter, each run alone on every document, and of all four in a row."""
    if not documents:
        raise InputError("no English text to measure with")
    parts = [documents[n : n + TOGETHER] for n in range(0, len(documents), TOGETHER)]
    matches = {name: Match() for name in (*PAIRS, IN_A_ROW)}
    for number, part in enumerate((parts[0], *parts)):
        for name, match in matches.items():
            names = tuple(PAIRS) if name == IN_A_ROW else (name,)
            first, found = _ours(names, part)
            theirs, expected = _theirs(names, part)
            second, _ = _ours(names, part)
            if number:
                match.ours += (first + second) / 2
                match.theirs += theirs
                match.add(found, expected)
    megabytes = sum(len(document.encode()) for document in documents) / 1e6
    return {
        "documents": len(documents),
        "megabytes": megabytes,
        "filters": {name: match.figures(megabytes) for name, match in matches.items()},
    }


def _ours(names: tuple[str, ...], texts: Sequence[str]) -> tuple[float, list[Outcome]]:
    table = batch(texts)
    if len(names) == 1:
        before = time.process_time()
        verdict = PAIRS[names[0]][1](table)
        seconds = time.process_time() - before
        kept = verdict.documents.column("text").to_pylist()
        return seconds, list(zip(verdict.reasons.to_pylist(), kept, strict=True))
    stages = [(name, PAIRS[name][1]) for name in names]
    before = time.process_time()
    left, _ = run_stages(table, stages)
    seconds = time.process_time() - before
    found = {row["id"]: row["text"] for row in left.select(["id", "text"]).to_pylist()}
    ids = (str(n) for n in range(len(texts)))
    return seconds, [(None, found[n]) if n in found else ("dropped", "") for n in ids]


def _theirs(names: tuple[str, ...], texts: Sequence[str]) -> tuple[float, list[Outcome]]:
    filters = [_filter(PAIRS[name][0]) for name in names]
    document_class = importlib.import_module("datatrove.data").Document
    documents = [document_class(text=text, id="") for text in texts]
    verdicts = []
    before = time.process_time()
    for document in documents:
        verdict: Any = True
        for one in filters:
            verdict = one.filter(document)
            if verdict is not True:
                break
        verdicts.append(verdict)
    seconds = time.process_time() - before
    drop = (lambda reason: "dropped") if len(names) > 1 else REASONS.__getitem__
    return seconds, [
        (None if verdict is True else drop(verdict[1]), document.text)
        for verdict, document in zip(verdicts, documents, strict=True)
    ]


@cache
def _filter(name: str) -> Any:
    return getattr(importlib.import_module("datatrove.pipeline.filters"), name)()


def english_parts(texts: Iterator[str]) -> list[str]:
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


def main() -> int:
    """Compare over the files that are named, and print the figures as JSON."""
    documents = english_parts(document.text for document in read_documents(sys.argv[1:]))
    print(json.dumps(compare(documents), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(fail_clean(main))
