"""Markup, encoding and white space: from what was fetched to text worth judging.

Usual order: `HtmlToText`, `FixEncoding`, `Normalize`. Each works on whole columns with Arrow (RE2)
and falls back to Python only for the rows that a cheap column test points out.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numba as nb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import InputError
from .stage import Verdict, keep_all, with_texts

# A page starts with a doctype or one of the outer elements, behind comments and an XML declaration
# at most. A text that only starts with some tag is not a page: README files in Markdown often open
# with <p align="center">, and main-content extraction would throw most of such a text away.
_PAGE = (
    r"(?is)\A[\s\x{feff}]*(?:<\?xml[^>]*>\s*)?(?:<!--(?:[^-]|-[^-]|--[^>])*-->\s*)*"
    r"<(?:!doctype\s+html|html|head|body)[\s>]"
)
_HTML_MIME = r"(?i)^\s*(?:text/html|application/xhtml\+xml)\s*(?:;|$)"
_MAIN = re.compile(r"<main[\s>]|role\s*=\s*[\"']?main\b", re.IGNORECASE)
_LITTLE = 0.1  # of a page is text: common beside scripts and styles, so it only raises a question
_LEFT = 0.3  # of what is marked as the main content: below, the heuristics have dropped it
# Elements that cannot hold others, or that the next of their kind closes.
_FLAT = frozenset(
    {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source"}
    | {"track", "wbr", "p", "li", "dt", "dd", "tr", "td", "th", "option", "thead", "tbody", "tfoot"}
)
_FLAT_KEYS = np.array([int.from_bytes(name.encode(), "big") for name in sorted(_FLAT)], np.uint64)


@dataclass(frozen=True)
class HtmlToText:
    """HTML pages to the text of their main content, by resiliparse.

    Applies to a row whose column `mime` (where there is one) is text/html or application/xhtml+xml,
    and to a row whose text starts like a page: a doctype, <html>, <head> or <body>, behind white
    space, an XML declaration and comments at most. All other rows stay as they are, also those that
    merely hold tags. Block elements become lines, so paragraphs stay apart.

    The heuristics take lists of links for navigation. Where they leave little of what the page
    itself marks as its main content (<main>, or role=main), as in tables of contents, all of that
    is taken.

    Dropped: pages without text, and pages nested deeper than `max_depth`, on which the parser's
    time grows with the square of the depth (20,000 levels: 9 s).
    """

    # leave out navigation, footers and the like (resiliparse's heuristics)
    main_content: bool = True
    # keep comment sections of a page as content
    comments: bool = True
    # put the alternative texts of images into the text
    alt_texts: bool = True
    # bullets and numbers before list items
    list_bullets: bool = True
    # elements inside one another; real pages stay below a few hundred
    max_depth: int = 2000

    def __post_init__(self) -> None:
        if self.max_depth < 1:
            raise InputError(f"max_depth {self.max_depth}: 1 or more")

    def __call__(self, documents: pa.Table) -> Verdict:
        """Extract the text of every row that is a page."""
        texts = _column(documents)
        pages = pc.match_substring_regex(texts, _PAGE)
        if "mime" in documents.column_names:
            mime = documents.column("mime").cast(pa.large_string()).combine_chunks()
            named = pc.fill_null(pc.match_substring_regex(_flat(mime), _HTML_MIME), False)
            pages = pc.or_(pages, named)
        rows = pc.indices_nonzero(pages).to_pylist()
        if not rows:
            return Verdict(documents, keep_all(documents))
        reasons: list[str | None] = [None] * len(texts)
        extracted = list[str]()
        for row in rows:
            html = texts[row].as_py()
            text, reasons[row] = self._extract(html)
            extracted.append(html if text is None else text)
        new = pc.replace_with_mask(texts, pages, pa.array(extracted, pa.large_string()))
        table, changed = with_texts(documents, new)
        return Verdict(table, pa.array(reasons, pa.string()), changed)

    def _extract(self, html: str) -> tuple[str | None, str | None]:
        """(text, why the page is dropped)."""
        from resiliparse.extract.html2text import extract_plain_text
        from resiliparse.parse.html import HTMLParserException

        if html.count("<") > self.max_depth and _depth(html) > self.max_depth:
            return None, "HTML nested too deeply"
        html = html.removeprefix("\ufeff")
        options: dict[str, Any] = {
            "preserve_formatting": True,
            "list_bullets": self.list_bullets,
            "alt_texts": self.alt_texts,
            "comments": self.comments,
        }
        try:
            text = extract_plain_text(html, main_content=self.main_content, **options)
            if self.main_content and len(text) < _LITTLE * len(html):
                marked = _marked_main(html)
                whole = marked and extract_plain_text(marked, main_content=False, **options)
                if whole and len(text) < _LEFT * len(whole):
                    text = whole
        except HTMLParserException:
            return None, "HTML that cannot be parsed"
        return (text, None) if text.strip() else (None, "HTML without text")


def _marked_main(html: str) -> str | None:
    """The one element that a page marks as its main content, if it marks one."""
    from resiliparse.parse.html import HTMLTree

    if not _MAIN.search(html):
        return None
    page = HTMLTree.parse(html).document
    marked = page.query_selector_all("main, [role=main]") if page is not None else []
    return marked[0].html if len(marked) == 1 else None


def _depth(html: str) -> int:
    """An upper estimate of how deep elements lie inside one another."""
    return int(_deepest(np.frombuffer(html.encode(), np.uint8), _FLAT_KEYS))


@nb.njit(cache=True, nogil=True)
def _deepest(data, flat):  # type: ignore[no-untyped-def]
    """Tags that open less tags that close, elements in `flat` aside; at the deepest place."""
    depth = deepest = at = 0
    while at < len(data) - 1:
        if data[at] != 0x3C:  # <
            at += 1
            continue
        at += 1
        closing = data[at] == 0x2F  # /
        at += closing
        key, size = np.uint64(0), 0
        while at < len(data):
            low = data[at] | 0x20
            letter, digit = 0x61 <= low <= 0x7A, 0x30 <= data[at] <= 0x39
            if not (letter or (digit and size)):
                break
            key = (key << np.uint64(8)) | np.uint64(low if letter else data[at])
            size += 1
            at += 1
        if size == 0:
            continue
        if size <= 8:
            found = False
            for other in flat:
                found |= other == key
            if found:
                continue
        depth = max(0, depth - 1) if closing else depth + 1
        deepest = max(deepest, depth)
    return deepest


@dataclass(frozen=True)
class FixEncoding:
    """Text decoded with the wrong character set, repaired by ftfy; then Unicode's NFC.

    Left alone on purpose, since they carry meaning in code, Markdown and CJK: HTML entities, curly
    quotes, ligatures, full-width characters, line ends and control characters (see `Normalize`).
    A row is sent through ftfy only where ftfy's own detector, run by RE2 over the column (some
    100 times faster than in Python), finds a sign of such damage: it leaves all other rows alone.
    """

    # remove terminal colour codes (ESC [ ... m)
    remove_terminal_escapes: bool = True

    def __call__(self, documents: pa.Table) -> Verdict:
        """Repair every row that needs it."""
        import ftfy

        texts = _column(documents)
        config = ftfy.TextFixerConfig(
            unescape_html=False,
            remove_terminal_escapes=self.remove_terminal_escapes,
            uncurl_quotes=False,
            fix_latin_ligatures=False,
            fix_character_width=False,
            fix_line_breaks=False,
            remove_control_chars=False,
            normalization="NFC",
            explain=False,
        )
        suspect = pc.match_substring_regex(texts, _damage_pattern())
        escaped = pc.match_substring(texts, "\x1b")
        new = pc.utf8_normalize(texts, form="NFC")
        new = _rows(new, pc.or_(suspect, escaped), lambda text: ftfy.fix_text(text, config))
        table, changed = with_texts(documents, new)
        return Verdict(table, keep_all(documents), changed)


@cache
def _damage_pattern() -> str:
    """ftfy's detector in RE2's syntax; it matches wherever the original does, and rarely more.

    RE2 has no verbose mode, and its character classes hold ASCII only; `^` is for the lines that
    ftfy repairs one by one. Every non-ASCII text is suspect where a release of ftfy has a detector
    that RE2 cannot run.
    """
    from ftfy.badness import BADNESS_RE

    verbose = re.compile(r"(\\.|\[(?:\\.|[^\]\\])*\])|#[^\n]*|\s+", re.DOTALL)
    pattern = verbose.sub(lambda match: match[1] or "", BADNESS_RE.pattern)
    pattern = pattern.replace(r"\w", ".").replace(r"\s", r"[\s\x{85}\x{a0}\x{1680}-\x{3000}]")
    pattern = f"(?sm){pattern}"
    try:
        pc.match_substring_regex(pa.array([""]), pattern)
    except pa.ArrowInvalid:
        return r"[^\x00-\x7f]"
    return pattern


# Scripts that shape letters with joiners (Arabic and its kin, Brahmic scripts, Mongolian), and
# emoji with variation selectors: after these U+200C and U+200D are part of the spelling.
_JOINING = (
    r"\x{0600}-\x{109f}\x{1780}-\x{18af}\x{1900}-\x{1cff}\x{a800}-\x{abff}\x{fb50}-\x{fdff}"
    r"\x{fe70}-\x{fefc}\x{11000}-\x{11fff}\x{1e900}-\x{1e95f}"
    r"\x{2190}-\x{27bf}\x{2b00}-\x{2bff}\x{fe0e}\x{fe0f}\x{1f000}-\x{1faff}"
)
# Thai, Lao, Myanmar and Khmer are written without spaces; U+200B marks where a word ends.
_UNSPACED = r"\x{0e00}-\x{0eff}\x{1000}-\x{109f}\x{1780}-\x{17ff}"
_INVISIBLE = (
    rf"([{_JOINING}][\x{{200c}}\x{{200d}}]+|[{_UNSPACED}]\x{{200b}})"
    r"|[\x00-\x08\x0e-\x1f\x7f-\x{9f}\x{ad}\x{200b}-\x{200d}\x{2060}\x{feff}]"
)
# What may be matched by a line end, an invisible character, ... and what to put there, in order.
_STEPS = (
    (r"\r\n?|[\x0b\x0c\x{85}\x{2028}\x{2029}]", "\n"),
    (_INVISIBLE, r"\1"),
    (r"([^ \t\n\x{a0}])[ \x{a0}]{2,}", r"\1 "),
    (r"(?m)[ \t\x{a0}\x{3000}]+$", ""),
    (r"\n{3,}", "\n\n"),
)


@dataclass(frozen=True)
class Normalize:
    r"""White space and invisible characters as plain text has them.

    Line ends (CRLF, CR, vertical tab, form feed, U+0085, U+2028, U+2029) become \n. NUL, control
    characters other than newline and tab, byte order marks, soft hyphens and word joiners go.
    U+200C and U+200D stay after letters of scripts that need them and after emoji; U+200B stays
    after Thai, Lao, Myanmar and Khmer; elsewhere they go. Runs of spaces inside a line become one:
    indentation, which programs need, and tabs stay. Spaces at the end of lines go, as do blank
    lines at both ends; of several blank lines one stays, so paragraphs stay apart. Applying it
    twice changes nothing more. Rows left without any text are dropped.
    """

    def __call__(self, documents: pa.Table) -> Verdict:
        """Normalise every row."""
        texts = _column(documents)
        for pattern, replacement in _STEPS:
            texts = _replace(texts, pattern, replacement)
        texts = pc.utf8_trim(texts, characters="\n")
        table, changed = with_texts(documents, texts)
        empty = pc.invert(pc.match_substring_regex(texts, r"[^\s\x{a0}\x{3000}]"))
        reasons = pc.if_else(empty, pa.scalar("no text", pa.string()), pa.scalar(None, pa.string()))
        return Verdict(table, reasons, changed)


def _flat(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """One array, whatever the number of chunks."""
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _column(documents: pa.Table) -> pa.Array:
    return _flat(documents.column("text").cast(pa.large_string()).combine_chunks())


def _replace(texts: pa.Array, pattern: str, replacement: str) -> pa.Array:
    """RE2 finds whether it matches several times faster than it replaces: replace where it does."""
    rows = pc.match_substring_regex(texts, pattern)
    if not pc.any(rows).as_py():
        return texts
    new = pc.replace_substring_regex(texts.filter(rows), pattern, replacement)
    return pc.replace_with_mask(texts, rows, new)


def _rows(texts: pa.Array, rows: pa.Array, change: Callable[[str], str]) -> pa.Array:
    """`change` applied in Python to the rows where `rows` is true."""
    new = [change(text.as_py()) for text in texts.filter(rows)]
    return pc.replace_with_mask(texts, rows, pa.array(new, pa.large_string())) if new else texts
