"""Drops documents that hold text of evaluation sets: n-gram overlap, as in Brown et al. 2020.

A text of an evaluation set (each field of a record by itself) and a document are both the sequence
of their words in lower case without punctuation (`words.py`; in scripts without spaces each letter
is one). An n-gram is 13 words, the figure of arXiv 2005.14165, appendix C, or 20 letters of such a
script, which say as much (1.5 letters stand for an English word where one handbook is in both
languages); where a text mixes scripts, a word counts 1/13 and a letter 1/20, and an n-gram is the
shortest run that comes to one. A shorter text is looked for as a whole, from 8 words (the least
that paper uses) or 12 letters on. Below that it says too little to be looked for.

Runs are found by a rolling hash of their first 8 words and compared word by word.

That paper also leaves out n-grams of more than ten *documents*, which a stage that judges each
document alone cannot count. Here n-grams are left out that name no text: those of which less than
half are different words with a letter (tables, counting) and, with `max_texts`, the formulas that
many texts of an evaluation set share. The paper cut n-grams out of documents so as to keep the rest
of long books; here, as in its own first version, the document goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numba as nb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..errors import InputError
from .evaluation_sets import EvaluationFile, read_evaluation_sets
from .stage import Texts, Verdict, keep_all
from .thresholds import check_thresholds
from .words import HAS_LETTER, IS_UNSPACED, UNFOLDED, Analysis, analyse

_STEP = np.uint64(0xD6E8FEB86659FD93)
_BITS_PER_KEY = 16  # of the filter before the search: one miss in sixteen is searched for
# A word that opens or closes as large a part of a field's texts is a template's: `Question: ...`.
_TEMPLATE_PART, _TEMPLATE_TEXTS = 0.9, 20


class Limits(NamedTuple):
    """What an n-gram is: see `Decontaminate`."""

    ngram: int
    characters: int
    min_words: int
    min_characters: int
    max_texts: int
    whole_texts: bool  # every place of an n-gram is kept, to tell how much of a text was found


class IndexedFile(NamedTuple):
    """What is looked for of a file."""

    label: str
    records: int
    too_short: int  # records without a text long enough to be looked for
    runs: int  # different n-grams and whole short texts
    ignored: int  # runs left out: they name no text


class Index(NamedTuple):
    """Runs of words to look for, sorted by key.

    key: uint64 [runs], hash of the words at the start. start, length: int64 [runs], where the run
    stands in `units`. text: int64 [runs]. units: uint64 [words of all texts], `Words.folded`.
    bits: uint8, which keys there may be. text_file, text_start, text_end: int64 [texts].
    """

    files: tuple[IndexedFile, ...]
    key: NDArray[np.uint64]
    start: NDArray[np.int64]
    length: NDArray[np.int64]
    text: NDArray[np.int64]
    units: NDArray[np.uint64]
    bits: NDArray[np.uint8]
    text_file: NDArray[np.int64]
    text_start: NDArray[np.int64]
    text_end: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Decontaminate:
    """Drops documents in which an n-gram, or a whole short text, of an evaluation set occurs.

    The reason names the file, the first of `paths` that was hit. Tülu 3's way (arXiv 2411.15124) is
    `ngram: 8, min_covered_fraction: 0.5`. The files are read when the stage is made, and once in
    each process that runs it. Raises InputError for a file in which there is nothing to look for.
    """

    paths: tuple[str, ...]  # files, folders, globs: JSON (lines), text, CSV, TSV, Parquet
    keys: tuple[str, ...] = ()  # fields that hold text, `a.b` for b inside a; none: every text
    ngram: int = 13  # words
    characters: int = 20  # of scripts without spaces
    min_words: int = 8  # of a text shorter than an n-gram
    min_characters: int = 12
    # of the words of a text, those in n-grams that the document holds; 0: one n-gram is enough
    min_covered_fraction: float = 0.0
    max_texts: int = 0  # an n-gram of more texts is ignored; 0: none is

    def __post_init__(self) -> None:
        check_thresholds(self)
        if self.min_words < 2 or self.min_characters < 2:
            raise InputError(
                f"min_words {self.min_words}, min_characters {self.min_characters}: 2 or more, "
                f"for single words occur in every document"
            )
        for least, most in (("min_words", "ngram"), ("min_characters", "characters")):
            if getattr(self, least) > getattr(self, most):
                raise InputError(
                    f"{least} {getattr(self, least)} is above {most} {getattr(self, most)}: a text "
                    f"as long as an n-gram is looked for by its n-grams; {most} at most"
                )
        self.index()

    @property
    def reads(self) -> tuple[str, ...]:
        """The files that decide beside the parameters."""
        return self.paths

    def __call__(self, documents: pa.Table) -> Verdict:
        """Judge by the words of each text."""
        index, words = self.index(), analyse(documents).words
        row, run = _hits(index, self._limits(), words.of, words.folded, words.kind)
        if not len(row):
            return Verdict(documents, keep_all(documents))
        if self.min_covered_fraction > 0:
            row, file = _covered(index, row, run, self.min_covered_fraction)
        else:
            file = index.text_file[index.text[run]]
        first = np.full(len(documents), len(index.files), np.int64)
        np.minimum.at(first, row, file)
        reasons = pa.array([f"contains evaluation text: {one.label}" for one in index.files])
        return Verdict(documents, reasons.take(pa.array(first, mask=first == len(index.files))))

    def index(self) -> Index:
        """What is looked for."""
        return _index(self.paths, self.keys, self._limits())

    def _limits(self) -> Limits:
        return Limits(
            self.ngram,
            self.characters,
            self.min_words,
            self.min_characters,
            self.max_texts,
            self.min_covered_fraction > 0,
        )


# --- The index -----------------------------------------------------------------


@lru_cache(maxsize=4)
def _index(paths: tuple[str, ...], keys: tuple[str, ...], limits: Limits) -> Index:
    files = list(read_evaluation_sets(paths, keys))
    texts, text_file, text_record, text_field = _flatten(files)
    table = pa.table({"text": pa.array(texts, pa.large_string())})
    words = Analysis(Texts(table)).words
    real = words.folded != UNFOLDED
    units, kind = words.folded[real], words.kind[real]
    bounds = np.zeros(len(real) + 1, np.int64)
    np.cumsum(real, out=bounds[1:])
    bounds = bounds[words.of]
    first, last = _trimmed(units, bounds, text_field)
    long, short = (
        _weights(kind, limits.ngram, limits.characters),
        _weights(kind, limits.min_words, limits.min_characters),
    )
    most = len(units) + len(texts)
    start, length, text = (np.empty(most, np.int64) for _ in range(3))
    useful = np.empty(most, np.bool_)
    count = _runs(
        units,
        kind,
        (bounds, first, last),
        (long, limits.ngram * limits.characters),
        (short, limits.min_words * limits.min_characters),
        (start, length, text, useful),
    )
    start, length, text, useful = start[:count], length[:count], text[:count], useful[:count]
    key, whole = np.empty(count, np.uint64), np.empty(count, np.uint64)
    _hash_runs(units, short, limits.min_words * limits.min_characters, start, length, key, whole)
    contents = np.empty(len(texts), np.uint64)
    _hash_runs(
        units, short, 0, bounds[:-1], np.diff(bounds), np.empty(len(texts), np.uint64), contents
    )
    if limits.max_texts:
        useful &= _texts_of(whole, contents[text]) <= limits.max_texts
    described = _describe(files, text_file, text_record, text, whole, useful)
    keep = np.flatnonzero(useful)
    if not limits.whole_texts:  # the first place of a run is enough
        keep = keep[np.unique(whole[keep], return_index=True)[1]]
    keep = keep[np.argsort(key[keep], kind="stable")]
    key = key[keep]
    bits = np.zeros(_filter_bytes(len(keep)), np.uint8)
    _fill(bits, key)
    return Index(
        described, key, start[keep], length[keep], text[keep], units, bits, text_file, first, last
    )


def _flatten(
    files: Sequence[EvaluationFile],
) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """(texts, and of each its file, its record in the file, its field among all files' fields)."""
    texts: list[str] = []
    places: list[tuple[int, int, int]] = []
    fields: dict[tuple[int, str], int] = {}
    for number, file in enumerate(files):
        for record, found in enumerate(file.records):
            for path, text in found:
                texts.append(text)
                field = fields.setdefault((number, path), len(fields))
                places.append((number, record, field))
    file_, record_, field_ = np.array(places, np.int64).reshape(-1, 3).T
    return texts, file_, record_, field_


def _trimmed(
    units: NDArray[np.uint64], bounds: NDArray[np.int64], field: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Begin and end of each text in `units` without the words of a template around it.

    `Question: {} Answer:` would hide a short question: nobody else writes it so.
    """
    first, last = bounds[:-1].copy(), bounds[1:].copy()
    for number in range(int(field.max(initial=-1)) + 1):
        texts = np.flatnonzero(field == number)
        if len(texts) < _TEMPLATE_TEXTS:
            continue
        for side, step in ((first, 1), (last, -1)):
            while True:
                open_ = texts[last[texts] > first[texts]]
                at = side[open_] if step > 0 else side[open_] - 1
                words, counts = np.unique(units[at], return_counts=True)
                if counts.max(initial=0) < _TEMPLATE_PART * len(texts):
                    break
                side[open_[units[at] == words[counts.argmax()]]] += step
    nothing = first == last  # a template is no text, but a text may be in every record
    return np.where(nothing, bounds[:-1], first), np.where(nothing, bounds[1:], last)


def _weights(kind: NDArray[np.uint8], words: int, letters: int) -> NDArray[np.int64]:
    """What each unit counts, of words * letters for a whole run."""
    return np.where(kind & IS_UNSPACED != 0, words, letters).astype(np.int64)


def _texts_of(whole: NDArray[np.uint64], content: NDArray[np.uint64]) -> NDArray[np.int64]:
    """[runs] in how many different texts the run occurs; a text that is there twice is one."""
    pairs = np.unique(np.stack([whole, content]), axis=1)[0]
    runs, counts = np.unique(pairs, return_counts=True)
    return counts[np.searchsorted(runs, whole)]


def _describe(
    files: Sequence[EvaluationFile],
    text_file: NDArray[np.int64],
    text_record: NDArray[np.int64],
    text: NDArray[np.int64],
    whole: NDArray[np.uint64],
    useful: NDArray[np.bool_],
) -> tuple[IndexedFile, ...]:
    described = []
    for number, file in enumerate(files):
        here = text_file[text] == number
        used = here & useful
        found = len(np.unique(text_record[text[used]]))
        if not found:
            raise InputError(
                f"{file.label}: no text in it is long and special enough to be looked for; leave "
                f"the file out, or lower min_words and min_characters"
            )
        runs = len(np.unique(whole[used]))
        ignored = len(np.unique(whole[here & ~useful]))
        records = len(file.records)
        described.append(IndexedFile(file.label, records, records - found, runs, ignored))
    return tuple(described)


def _filter_bytes(keys: int) -> int:
    return max(1 << 10, 1 << (keys * _BITS_PER_KEY // 8).bit_length())


# --- Looking -------------------------------------------------------------------


def _hits(
    index: Index,
    limits: Limits,
    of: NDArray[np.int64],
    folded: NDArray[np.uint64],
    kind: NDArray[np.uint8],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(document, run of the index) of every run that occurs in a document."""
    room = 1024
    while True:
        row, run = np.empty(room, np.int64), np.empty(room, np.int64)
        count = _find(
            of,
            folded,
            kind,
            (limits.min_words, limits.min_characters),
            (index.key, index.start, index.length, index.units, index.bits),
            row,
            run,
        )
        if count <= room:
            return row[:count], run[:count]
        room = count


def _covered(
    index: Index, row: NDArray[np.int64], run: NDArray[np.int64], fraction: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(document, file) where `fraction` of the words of a text of the file is found or more.

    row is in order.
    """
    rows, files = [row[:0]], [row[:0]]
    for hits in np.split(np.arange(len(row)), np.flatnonzero(np.diff(row)) + 1):
        found = np.unique(run[hits])
        found = found[np.argsort(index.start[found], kind="stable")]
        text = index.text[found]
        begin = np.maximum(index.start[found], index.text_start[text])
        end = np.minimum(index.start[found] + index.length[found], index.text_end[text])
        reached = np.maximum.accumulate(np.append(0, end[:-1]))
        fresh = np.maximum(end - np.maximum(begin, reached), 0)
        texts, place = np.unique(text, return_inverse=True)
        total = index.text_end[texts] - index.text_start[texts]
        enough = texts[np.bincount(place, fresh) >= fraction * total]
        rows.append(np.full(len(enough), row[hits[0]]))
        files.append(index.text_file[enough])
    return np.concatenate(rows), np.concatenate(files)


@nb.njit(cache=True, nogil=True, inline="always")
def _end_of_key(key):  # type: ignore[no-untyped-def]
    key ^= key >> np.uint64(32)
    key *= _STEP
    return key ^ (key >> np.uint64(29))


@nb.njit(cache=True, nogil=True)
def _fill(bits, keys):  # type: ignore[no-untyped-def]
    mask = np.uint64(8 * len(bits) - 1)
    for key in keys:
        at = key & mask
        bits[at >> np.uint64(3)] |= np.uint8(1) << np.uint8(at & np.uint64(7))


@nb.njit(cache=True, nogil=True)
def _names_text(units, kind, start, length):  # type: ignore[no-untyped-def]
    """Whether half of the units are different words with a letter."""
    different = 0
    for at in range(start, start + length):
        if not kind[at] & HAS_LETTER:
            continue
        fresh = 1
        for before in range(start, at):
            if units[before] == units[at]:
                fresh = 0
                break
        different += fresh
    return 2 * different >= length


@nb.njit(cache=True, nogil=True)
def _runs(units, kind, bounds, long, short, out):  # type: ignore[no-untyped-def]
    """The n-grams of every text, or the text where it has none; how many."""
    of, first, last = bounds
    weight, whole = long
    short_weight, least = short
    start, length, text, useful = out
    count = 0
    for t in range(len(of) - 1):
        end, total = of[t], 0
        for at in range(of[t], of[t + 1]):
            while end < of[t + 1] and total < whole:
                total += weight[end]
                end += 1
            if total < whole:
                break
            start[count], length[count], text[count] = at, end - at, t
            useful[count] = _names_text(units, kind, at, end - at)
            count += 1
            total -= weight[at]
        a, b = first[t], last[t]
        if short_weight[a:b].sum() < least:
            a, b = of[t], of[t + 1]
        if weight[a:b].sum() < whole and short_weight[a:b].sum() >= least:
            start[count], length[count], text[count] = a, b - a, t
            useful[count] = _names_text(units, kind, a, b - a)
            count += 1
    return count


@nb.njit(cache=True, nogil=True)
def _hash_runs(units, weight, least, start, length, key, whole):  # type: ignore[no-untyped-def]
    """Hash of the units at the start of each run that come to `least`, and of all of them."""
    for r in range(len(start)):
        value, total, at = np.uint64(0), 0, start[r]
        end = at + length[r]
        while at < end and total < least:
            value = value * _STEP + units[at]
            total += weight[at]
            at += 1
        key[r] = _end_of_key(value)
        while at < end:
            value = value * _STEP + units[at]
            at += 1
        whole[r] = _end_of_key(value ^ np.uint64(length[r]))


@nb.njit(cache=True, nogil=True)
def _find(of, folded, kind, limits, index, row, run):  # type: ignore[no-untyped-def]
    """How many hits there are; as many as there is room for are written."""
    min_words, min_characters = limits
    key, start, length, units, bits = index
    least, mask = min_words * min_characters, np.uint64(8 * len(bits) - 1)
    most, longest = 0, max(min_words, min_characters)
    for d in range(len(of) - 1):
        most = max(most, of[d + 1] - of[d])
    power = np.ones(longest + 1, np.uint64)
    for n in range(longest):
        power[n + 1] = power[n] * _STEP
    here, weight = np.empty(most, np.uint64), np.empty(most, np.int64)
    hits = 0
    for d in range(len(of) - 1):
        size = 0
        for w in range(of[d], of[d + 1]):
            if folded[w] != UNFOLDED:
                here[size] = folded[w]
                weight[size] = min_words if kind[w] & IS_UNSPACED else min_characters
                size += 1
        value, total, end = np.uint64(0), 0, 0
        for at in range(size):
            while end < size and total < least:
                value = value * _STEP + here[end]
                total += weight[end]
                end += 1
            if total < least:
                break
            found = _end_of_key(value)
            value -= power[end - at - 1] * here[at]
            total -= weight[at]
            bit = found & mask
            if not bits[bit >> np.uint64(3)] >> np.uint8(bit & np.uint64(7)) & np.uint8(1):
                continue
            r = np.searchsorted(key, found)
            while r < len(key) and key[r] == found:
                same = 0
                if at + length[r] <= size:
                    while same < length[r] and here[at + same] == units[start[r] + same]:
                        same += 1
                if same == length[r]:
                    if hits < len(row):
                        row[hits], run[hits] = d, r
                    hits += 1
                r += 1
    return hits
