"""The cleaning rules of C4: Raffel et al. 2020, arXiv 1910.10683, section 2.2.

They work on lines: a line that is no sentence is taken out of its text, and a text with too few
sentences left is dropped. The order of the checks on a line is that of the reference code.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba as nb
import numpy as np
import pyarrow as pa

from ..errors import InputError
from .blocklist import blocked_words, count_phrases
from .characters import END, LETTER, MARK, NUMBER, SPACE, UNSPACED, character_table, decode
from .stage import Verdict
from .thresholds import check_thresholds, first_reasons
from .tokens import ENDS_SENTENCE, IS_PUNCTUATION, IS_UNSPACED, token_tables, tokenize
from .words import Splitting, analyse

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

    A line stays if it ends with `.`, `?`, `!`, `"` or `'` but not `...`, or with a terminal mark of
    another script, quoted or not (in Thai and Lao, which have none, with a letter); has
    `min_line_words` words (`words.py`) of at most `max_word_length`; and names neither JavaScript
    nor a policy. A curly bracket or "lorem ipsum" in a line that is otherwise a sentence drops the
    document.
    """

    require_terminal_mark: bool = True  # of a line; FineWeb's pipeline keeps lines without
    min_line_words: int = 3
    max_word_length: int = 1000  # characters
    min_sentences: int = 5  # in the lines that stay
    # What a sentence ends at: a token that is a terminal mark (`tokens.py`, where the full stop of
    # `U.S.` or `Mr.` is none), or such a mark before white space. tokens | whitespace
    sentences: Splitting = "tokens"
    remove_citations: bool = True  # `[12]`, `[edit]` and `[citation needed]` go out of lines
    policies: tuple[str, ...] = POLICIES  # in lower case; a line with one goes
    bad_words: str | None = None  # path of a list: a document with one of them is dropped

    def __post_init__(self) -> None:
        check_thresholds(self)
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
        _keep_lines(
            texts.data,
            (lines.of, lines.start, lines.end),
            character_table().classes,
            (self.require_terminal_mark, self.min_line_words, self.max_word_length),
            (np.frombuffer(b"".join(phrases), np.uint8), ends, firsts),
            self.remove_citations,
            kept,
            offsets,
            fault,
        )
        kept.flags.writeable = False  # as the texts are: one compiled tokenizer for both
        if self.sentences == "tokens":
            _count_by_tokens(kept, offsets, token_tables(), self.min_sentences, sentences)
        else:
            _count_by_marks(kept, offsets, character_table().classes, sentences)
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


@nb.njit(cache=True, nogil=True, inline="always")
def _before(data, start, end):  # type: ignore[no-untyped-def]
    """Where the last character of `data[start:end]` begins."""
    at = end - 1
    while at > start and data[at] & 0xC0 == 0x80:
        at -= 1
    return at


@nb.njit(cache=True, nogil=True)
def _ends_sentence(data, start, end, classes):  # type: ignore[no-untyped-def]
    """`.`, `?`, `!`, `"` or `'`, not `...`; else a mark of another script, maybe quoted."""
    if start == end:
        return False
    last = data[end - 1]
    if last < 0x80:
        if last == 0x2E:
            dots = end - start > 2 and data[end - 2] == 0x2E and data[end - 3] == 0x2E
            return not dots
        return last == 0x3F or last == 0x21 or last == 0x22 or last == 0x27
    at = _before(data, start, end)
    code, _ = decode(data, at, end)
    if _is_quote(code) and at > start:
        end, at = at, _before(data, start, at)
        code, _ = decode(data, at, end)
        return code >= 0x80 and code < len(classes) and classes[code] & END != 0
    return code < len(classes) and classes[code] & END != 0


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
def _line_end(data, at, end):  # type: ignore[no-untyped-def]
    while at < end and data[at] != 10:
        at += 1
    return at


@nb.njit(cache=True, nogil=True)
def _count_by_marks(data, offsets, classes, sentences):  # type: ignore[no-untyped-def]
    for d in range(len(offsets) - 1):
        at, end = offsets[d], offsets[d + 1]
        while at < end:
            stop = _line_end(data, at, end)
            sentences[d] += _sentences(data, at, stop, classes)
            at = stop + 1


@nb.njit(cache=True, nogil=True)
def _count_by_tokens(data, offsets, tables, enough, sentences):  # type: ignore[no-untyped-def]
    """A sentence begins with its line, and at a token that is no punctuation after a terminal mark.
    Counts on to the end of the line that brings `enough`.
    """
    most = np.int64(0)
    for d in range(len(offsets) - 1):
        most = max(most, offsets[d + 1] - offsets[d])
    kinds = np.empty(most, np.uint8)
    out = np.empty(most, np.int64), np.empty(most, np.int32), np.empty(most, np.uint64), kinds
    for d in range(len(offsets) - 1):
        at, end = offsets[d], offsets[d + 1]
        while at < end and sentences[d] < enough:
            stop = _line_end(data, at, end)
            count, ended = 1, False
            for t in range(tokenize(data, at, stop, tables, out, 0)):
                kind = kinds[t]
                if kind & ENDS_SENTENCE:
                    # a letter with its mark, where there are no spaces, also begins a sentence
                    count += ended and kind & IS_UNSPACED != 0
                    ended = True
                elif ended and not kind & IS_PUNCTUATION:
                    count += 1
                    ended = False
            sentences[d] += count
            at = stop + 1


@nb.njit(cache=True, nogil=True)
def _has_words(data, start, end, classes, least, longest):  # type: ignore[no-untyped-def]
    """Whether there are `least` words between white space, none of more than `longest` characters;
    letters of scripts without spaces are words each.
    """
    words, size, at = 0, 0, start
    if end - start <= longest:
        longest = end - start
        if least <= 0:
            return True
    while at < end:
        byte = data[at]
        if byte < 0x80:
            flags, step = classes[byte], 1
        else:
            code, step = decode(data, at, end)
            flags = classes[code] if code < len(classes) else np.uint8(0)
        at += step
        if flags & SPACE:
            size = 0
            continue
        if size == 0 or flags & UNSPACED:
            words += 1
            size = 0
            if words >= least and end - start <= longest:
                return True
        size += 1
        if size > longest:
            return False
    return words >= least


@nb.njit(cache=True, nogil=True)
def _citation(data, at, end):  # type: ignore[no-untyped-def]
    """The bytes of `[12]`, `[]`, `[edit]` or `[citation needed]` at `at`, 0 if there is none."""
    k = at + 1
    while k < end and 0x30 <= data[k] <= 0x39:
        k += 1
    if k < end and data[k] == 0x5D:
        return k + 1 - at
    for text in (b"[edit]", b"[citation needed]"):
        size = len(text)
        if at + size <= end:
            k = 0
            while k < size and data[at + k] == text[k]:
                k += 1
            if k == size:
                return size
    return 0


@nb.njit(cache=True, nogil=True)
def _copy_line(data, start, end, citations, kept, out):  # type: ignore[no-untyped-def]
    """Write the line without its citations to `kept[out:]`; where it ends there."""
    at = start
    while at < end:
        if citations and data[at] == 0x5B:
            size = _citation(data, at, end)
            if size:
                at += size
                continue
        kept[out] = data[at]
        out += 1
        at += 1
    return out


@nb.njit(cache=True, nogil=True)
def _keep_lines(  # type: ignore[no-untyped-def]
    data, lines, classes, limits, phrases, citations, kept, offsets, fault
):
    of, start, end = lines
    marked, min_words, max_length = limits
    text, ends, firsts = phrases
    out = 0
    for d in range(len(of) - 1):
        first = out
        for n in range(of[d], of[d + 1]):
            if start[n] == end[n]:
                continue
            # the line is written behind what is kept, and stays if it is good
            a = out + (1 if out > first else 0)
            b = _copy_line(data, start[n], end[n], citations, kept, a)
            if marked and not _ends_sentence(kept, a, b, classes):
                continue
            if not _has_words(data, start[n], end[n], classes, min_words, max_length):
                continue
            found = _phrases_in(kept, a, b, text, ends, firsts)
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
            if a > out:
                kept[out] = 10
            out = b
        offsets[d + 1] = out
