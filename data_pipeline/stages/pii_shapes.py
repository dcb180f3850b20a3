"""The shape of one way of writing personal data, and the expressions that all of them share.

Expressions are over UTF-8 bytes, so letters of other scripts count as boundaries (Chinese runs into
an address without a space). Each names the anchor of `pii_scan` at which alone it is tried.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from . import pii_scan

Valid = Callable[[str], bool]


@dataclass(frozen=True)
class Names:
    """Words of which one must stand before a match.

    expression: over text in which ASCII is lower case. words: those alone, to see at once that
    text holds none of them.
    """

    expression: re.Pattern[bytes]
    words: tuple[bytes, ...]


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """One way of writing one kind.

    An expression's group `only`, where it has one, is what gets replaced; the whole match counts
    when matches overlap.
    """

    kind: str
    anchor: int  # of pii_scan: where it is tried
    expression: re.Pattern[bytes]
    valid: Valid | None = None  # over the match as text
    context: Names | None = None  # one must be found shortly before the match
    unless: Names | None = None  # none may be found shortly before the match
    digits: int = 0  # least number of digits at the anchor (numbers only)
    back: int = 0  # bytes before the anchor where a match may begin
    search: bool = False  # may begin anywhere within the anchor, not only where that begins
    trim: bool = False  # what is not valid is tried again without the last group after a space


def utf8(expression: str, flags: int = 0) -> re.Pattern[bytes]:
    """`expression` over UTF-8; a character beyond ASCII is several bytes, so never in a class."""
    return re.compile(expression.encode("utf-8"), flags)


def latin(expression: str) -> re.Pattern[bytes]:
    """Expression in which LATIN is a letter from U+00C0 to U+024F, two bytes each."""
    return re.compile(expression.encode().replace(b"LATIN", rb"[\xc3-\xc9][\x80-\xbf]"))


def either(words: Iterable[bytes]) -> bytes:
    """An expression for any of `words`, branched on the first byte: many words cost like few."""
    branches: dict[bytes, list[bytes]] = {}
    for word in sorted(set(words)):
        branches.setdefault(word[:1], []).append(word[1:])
    return b"|".join(
        re.escape(first) + b"(?:" + b"|".join(map(re.escape, rest)) + b")"
        for first, rest in branches.items()
    )


def names(words: str, after: str = "") -> Names:
    """Any of `words`, separated by commas, in any case, then the expression `after`.

    A word begins where no letter of its script stands before it, and is not inside a token such as
    <PHONE>; with `!` no letter may follow either.
    """
    ends: dict[tuple[bytes, bytes], list[bytes]] = {}
    for word in (word.strip() for word in words.split(",")):
        plain = word.removesuffix("!")
        for form in {plain.lower(), plain.upper(), plain.capitalize()}:
            start = rb"(?<![\xcd-\xd3][\x80-\xbf])" if "\u0370" <= form[0] < "\u0530" else b""
            start = rb"(?<![a-z<])(?<!<ip_)" if form[0].isascii() else start
            end = rb"(?![a-z_\xc3-\xd3])" if word != plain else b""
            ends.setdefault((start, end), []).append(form.encode().lower())
    parts = (start + b"(?:" + either(forms) + b")" + end for (start, end), forms in ends.items())
    return Names(
        re.compile(b"(?:" + b"|".join(parts) + b")" + after.encode()),
        tuple(form for forms in ends.values() for form in forms),
    )


def number(
    kind: str,
    expression: str,
    valid: Valid | None,
    digits: int,
    *,
    context: Names | None = None,
    trim: bool = False,
) -> Pattern:
    """A pattern tried at groups of digits, `digits` of them at least."""
    return Pattern(
        kind=kind,
        anchor=pii_scan.NUMBER,
        expression=utf8(expression),
        valid=valid,
        digits=digits,
        context=context,
        back=3,  # +( or a wide parenthesis
        search=True,
        trim=trim,
    )


# Not in the midst of a word, a decimal, a longer number, a path or a sum.
BEFORE = r"(?<![\w+*/^#%-])(?<!\d[.,])(?<!\d[ -])(?<!\w [*+^/] )(?<!\d [-=] )(?<!\d[-/=] )"
AFTER = r"(?!\w|[-.,/:]\d|[-@%/]\w| ?[*^+=]| / ?\d| \d)"
AFTER_SET_OFF = r"(?!\w|[-.,/:]\d|[-@%/]\w| ?[*^+=]| / ?\d)"
# a space (or no-break space) or a hyphen (or one that does not break, or an en dash)
SEP = "(?:[ -]|\xa0|\u202f|\u2011|\u2013)"
