"""The cleaning rules of C4: Raffel et al. 2020, arXiv 1910.10683, section 2.2.

They work on lines: a line that is no sentence is taken out of its text, and a text with too few
sentences left is dropped. The order of the checks on a line is that of the reference code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numba as nb
import numpy as np
import pyarrow as pa

from ..errors import InputError
from .blocklist import blocked_words, count_phrases
from .characters import END, LETTER, MARK, NUMBER, SPACE, character_table, decode
from .stage import Verdict
from .thresholds import check_thresholds, first_reasons
from .words import analyse

POLICIES = (
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
)

_CURLY_BRACKET, _LOREM_IPSUM = 1, 2


@dataclass(frozen=True, kw_only=True)
class C4Rules:
    """Keeps lines that are sentences, and texts with enough of them.

    A line stays if it ends with a terminal mark of any script (in Thai and Lao, which have none,
    with a letter) or a quotation mark after which no sentence need follow, not with an ellipsis;
    has `min_line_words` words (`words.py`) of at most `max_word_length`; and names neither
    JavaScript nor a policy. A curly bracket or "lorem ipsum" in a line that is otherwise a
    sentence drops the document. Sentences are counted by the marks that end them.
    """

    min_line_words: int = 3
    max_word_length: int = 1000  # characters
    min_sentences: int = 5  # in the lines that stay
    # what becomes of lines that end no sentence: FineWeb keeps them (arXiv 2406.17557, section 3.5)
    unended_lines: Literal["drop", "keep"] = "drop"
    policies: tuple[str, ...] = POLICIES  # in lower case; a line with one goes
    bad_words: str | None = None  # path of a list: a document with one of them is dropped

    def __post_init__(self) -> None:
        check_thresholds(self)
        if self.unended_lines not in ("drop", "keep"):
            raise InputError(f"unended_lines {self.unended_lines!r}: drop or keep")
        for text in self.policies:
            if not text or not text.isascii() or text != text.lower():
                raise InputError(f"policies {text!r}: lower-case ASCII, one character or more")
        if len(self.policies) > 60:
            raise InputError(f"policies: {len(self.policies)} of them, 60 at most")
        if self.bad_words is not None:
            blocked_words(self.bad_words)

    def __call__(self, documents: pa.Table) -> Verdict:
        """Take lines out of the texts, and judge by what is left."""
        analysis = analyse(documents)
        texts, lines, rows = analysis.texts, analysis.lines, len(documents)
        sentences, fault = np.zeros(rows, np.int64), np.zeros(rows, np.int8)
        offsets = np.zeros(rows + 1, np.int64)
        size = int(texts.offsets[-1] - texts.offsets[0])
        kept = np.empty(size, np.uint8)
        phrases = [b"lorem ipsum", b"javascript", *(text.encode() for text in self.policies)]
        ends = np.cumsum([0, *map(len, phrases)])
        firsts = np.zeros(256, np.bool_)
        for phrase in [b"{", *phrases]:
            firsts[[phrase[0], phrase[:1].upper()[0]]] = True
        _keep_sentences(
            texts.data,
            (lines.of, lines.start, lines.end, lines.words, analysis.words.characters),
            character_table().classes,
            (self.min_line_words, self.max_word_length, self.unended_lines == "drop"),
            (np.frombuffer(b"".join(phrases), np.uint8), ends, firsts),
            kept,
            offsets,
            sentences,
            fault,
        )
        rules = [
            ("curly bracket", fault == _CURLY_BRACKET),
            ("lorem ipsum", fault == _LOREM_IPSUM),
            ("too few sentences", sentences < self.min_sentences),
        ]
        if self.bad_words is not None:
            found = count_phrases(analysis, *blocked_words(self.bad_words))
            rules.append(("bad words", found > 0))
        column = pa.LargeStringArray.from_buffers(rows, pa.py_buffer(offsets), pa.py_buffer(kept))
        index = documents.schema.get_field_index("text")
        cleaned = documents.set_column(index, documents.schema.field(index), column)
        changed = int((np.diff(offsets) != np.diff(texts.offsets)).sum())
        return Verdict(cleaned, first_reasons(rows, rules), changed)


@nb.njit(cache=True, nogil=True)
def _phrases_in(data, start, end, text, ends, firsts):  # type: ignore[no-untyped-def]
    """A bit for each phrase (lower-case ASCII) in the line, in either case; `{` is bit 63."""
    found = np.uint64(0)
    for at in range(start, end):
        if not firsts[data[at]]:
            continue
        if data[at] == 0x7B:
            found |= np.uint64(1) << np.uint64(63)
            continue
        for p in range(len(ends) - 1):
            size = ends[p + 1] - ends[p]
            if at + size > end:
                continue
            k = 0
            while k < size:
                byte = data[at + k]
                if (byte | 0x20 if 0x41 <= byte <= 0x5A else byte) != text[ends[p] + k]:
                    break
                k += 1
            if k == size:
                found |= np.uint64(1) << np.uint64(p)
    return found


@nb.njit(cache=True, nogil=True, inline="always")
def _is_quote(code):  # type: ignore[no-untyped-def]
    return code == 0x22 or code == 0x27 or code == 0x201D or code == 0x2019 or code == 0x300D


@nb.njit(cache=True, nogil=True)
def _ends_sentence(data, start, end, classes):  # type: ignore[no-untyped-def]
    dots = 0
    while dots < 3 and end - dots > start and data[end - 1 - dots] == 0x2E:
        dots += 1
    if dots == 3:
        return False
    at = end - 1
    while at > start and data[at] & 0xC0 == 0x80:
        at -= 1
    code, _ = decode(data, at, end)
    return _is_quote(code) or (code < len(classes) and classes[code] & END != 0)


@nb.njit(cache=True, nogil=True)
def _sentences(data, start, end, classes):  # type: ignore[no-untyped-def]
    """Terminal marks before white space, a quotation mark or the end (of marks that are not ASCII
    any), with a letter or number before them; what is left at the end is one more sentence.
    """
    count, at, open_ = 0, start, False
    while at < end:
        code, step = decode(data, at, end)
        flags = classes[code] if code < len(classes) else np.uint8(0)
        at += step
        if flags & END and not flags & (LETTER | MARK | NUMBER):
            ends = code >= 0x80 or at >= end
            if not ends:
                after, _ = decode(data, at, end)
                ends = _is_quote(after) or (after < len(classes) and classes[after] & SPACE != 0)
            if ends and open_:
                count += 1
                open_ = False
        elif flags & (LETTER | NUMBER):
            open_ = True
    return count + (1 if open_ else 0)


@nb.njit(cache=True, nogil=True)
def _keep_sentences(  # type: ignore[no-untyped-def]
    data, lines, classes, limits, phrases, kept, offsets, sentences, fault
):
    of, start, end, words, characters = lines
    min_words, max_length, only_ended = limits
    text, ends, firsts = phrases
    out = 0
    for d in range(len(of) - 1):
        first = out
        for n in range(of[d], of[d + 1]):
            a, b = start[n], end[n]
            if a == b or words[n + 1] - words[n] < min_words:
                continue
            longest = 0
            for w in range(words[n], words[n + 1]):
                longest = max(longest, characters[w])
            if longest > max_length or (only_ended and not _ends_sentence(data, a, b, classes)):
                continue
            found = _phrases_in(data, a, b, text, ends, firsts)
            if found & np.uint64(1):
                fault[d] = _LOREM_IPSUM
                break
            if found & np.uint64(2):
                continue
            if found >> np.uint64(63):
                fault[d] = _CURLY_BRACKET
                break
            if found:
                continue
            sentences[d] += _sentences(data, a, b, classes)
            if out > first:
                kept[out] = 10
                out += 1
            for at in range(a, b):
                kept[out] = data[at]
                out += 1
        offsets[d + 1] = out
