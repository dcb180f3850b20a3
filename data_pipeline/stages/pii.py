"""Personal data and secrets replaced by tokens such as `<EMAIL>`.

What is found, by kind (the details are in `pii_patterns`, `_phones`, `_national` and `_secrets`):

- email: also placeholders such as user@example.com, name%40host of a URL, name [at] host [dot] org
  and name at host dot org; not scp's host:path
- phone: international (+49 30 1234567, 0049 ...), North American, and national numbers as written
  in Germany, France, Britain, Sweden, Russia, Brazil, China, Japan, Korea and India. Any other of
  8 to 13 digits needs a word such as `tel` or 电话 shortly before it, in one of some 20 languages
- ip_address: IPv4 and IPv6 of the public Internet; an IPv4 address without a part of three digits,
  which a version could be, needs a word such as `ip` or `from` before it
- credit_card, iban: by issuer or country, length and check digits
- national_id: of some forty countries (`pii_national`), check digits checked; those whose shape or
  check is weak after their names
- url_credentials: user:password of scheme://user:password@host; scheme and host stay
- secret_key: of AWS, GitHub, GitLab, Slack, Google, Stripe, OpenAI and others, JSON web tokens,
  private keys in PEM

One pass over the bytes of a batch finds the few places where any could begin (`pii_scan`), and
patterns are tried there only. Where findings overlap the longest stays, then the earlier. A changed
text is scanned again until nothing is found, so that the stage applied twice is the stage applied
once; tokens hold nothing that a pattern could match.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..errors import InputError
from . import pii_scan
from .pii_patterns import KINDS, PATTERNS
from .pii_secrets import SECRET_PREFIXES
from .pii_shapes import Pattern, either
from .stage import Texts, Verdict, keep_all, with_texts

TOKENS: Mapping[str, str] = {
    "email": "<EMAIL>",
    "phone": "<PHONE>",
    "ip_address": "<IP_ADDRESS>",
    "credit_card": "<CREDIT_CARD>",
    "iban": "<IBAN>",
    "national_id": "<NATIONAL_ID>",
    "url_credentials": "<CREDENTIALS>",
    "secret_key": "<SECRET>",
}
_TOKEN = re.compile(r"[<\[{|][A-Za-z_ |]*[>\]}|]")  # no text beside it can make it a finding
_PREFIXES = np.array([list(prefix.ljust(8, b"?")) for prefix in SECRET_PREFIXES], np.uint8)
_CONTEXT_BYTES = 52  # before a match, where its context is looked for
_LOOK_AHEAD = 16  # bytes after a number that an expression may look at
# any name that a pattern asks for: where there is none, patterns that need one are not tried
_NAMES = re.compile(either(word for p in PATTERNS if p.context for word in p.context.words))
_NAMED = frozenset(p.anchor for p in PATTERNS if p.context)
_LAST_GROUP = re.compile(rb"(?: |\xc2\xa0)[ (]*[0-9]+\)?$")


class Found(NamedTuple):
    """Personal data in a text: its kind, and the bytes of UTF-8 from start to end to replace."""

    kind: str
    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Pii:
    """Replaces personal data; drops nothing.

    Adds (or adds to, where there is one) an int32 column `pii`, how many replacements were made in
    a document, and for each kind `pii_<kind>`. Raises InputError for an unknown kind or a token
    that could itself be matched.
    """

    kinds: tuple[str, ...] = KINDS  # what to replace
    # kind -> what stands in its place; kinds that are not named have TOKENS
    tokens: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        given: object = self.kinds
        if isinstance(given, str) or not given:  # else each of its characters would be a kind
            raise InputError(f"kinds {given!r}: a list of one or more of {', '.join(KINDS)}")
        for name in (*self.kinds, *self.tokens):
            if name not in KINDS:
                near = difflib.get_close_matches(str(name), KINDS, 1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise InputError(
                    f"kind {name!r} is not one of the kinds of personal data: "
                    f"{', '.join(KINDS)}{hint}"
                )
        for name, token in self.tokens.items():
            if not isinstance(token, str) or not _TOKEN.fullmatch(token):
                raise InputError(
                    f"token {token!r} of {name}: letters, spaces and underscores between < >, "
                    f"[ ], {{ }} or | |, as in {TOKENS[name]}"
                )

    def __call__(self, documents: pa.Table) -> Verdict:
        """Replace what is found in every text of `documents`."""
        texts = Texts(documents)
        kinds = [kind for kind in KINDS if kind in self.kinds]
        counts = np.zeros((len(kinds), len(documents)), np.int32)
        replaced: dict[int, bytes] = {}
        found = self._find(texts.data, texts.offsets)
        while found:
            rows = sorted(found)
            for row in rows:
                text, findings = found[row]
                for finding in findings:
                    counts[kinds.index(finding.kind), row] += 1
                replaced[row] = self._replace(text, findings)
            again = [replaced[row] for row in rows]
            offsets = np.cumsum([0, *map(len, again)], dtype=np.int64)
            found = {
                rows[number]: finding
                for number, finding in self._find(
                    np.frombuffer(b"".join(again), np.uint8), offsets
                ).items()
            }
        changed = 0
        if replaced:
            strings = documents.column("text").to_pylist()
            for row, text in replaced.items():
                strings[row] = text.decode()
            documents, changed = with_texts(documents, strings)
        documents = _add(documents, "pii", counts.sum(0, dtype=np.int32))
        for kind, count in zip(kinds, counts, strict=True):
            documents = _add(documents, f"pii_{kind}", count)
        return Verdict(documents, keep_all(documents), changed)

    def find(self, text: str) -> list[Found]:
        """What a single pass finds in a text, in its order."""
        data = np.frombuffer(text.encode(), np.uint8)
        found = self._find(data, np.array([0, len(data)], np.int64))
        return found[0][1] if found else []

    def _find(
        self, data: NDArray[np.uint8], offsets: NDArray[np.int64]
    ) -> dict[int, tuple[bytes, list[Found]]]:
        """Rows with findings: their bytes, and the findings without overlaps."""
        patterns = _patterns(tuple(self.kinds))
        matches: dict[int, list[tuple[int, int, Found]]] = {}
        texts: dict[int, bytes] = {}
        columns = pii_scan.anchors(data, offsets, _PREFIXES)
        for row, place, start, end, digits in zip(*(c.tolist() for c in columns), strict=True):
            if row not in texts:
                texts[row] = data[offsets[row] : offsets[row + 1]].tobytes()
            named = place in _NAMED and _NAMES.search(_window(texts[row], start))
            for pattern in patterns[place, bool(named)]:
                if digits < pattern.digits:
                    break
                if pattern.search and not pattern.expression.search(
                    texts[row], max(0, start - pattern.back), end + _LOOK_AHEAD
                ):
                    continue  # nearly always
                for match in _matches(pattern, texts[row], start, end):
                    matches.setdefault(row, []).append(match)
        return {row: (texts[row], _longest(found)) for row, found in matches.items()}

    def _replace(self, text: bytes, findings: list[Found]) -> bytes:
        pieces: list[bytes] = []
        last = 0
        for kind, start, end in findings:
            pieces += [text[last:start], self.tokens.get(kind, TOKENS[kind]).encode()]
            last = end
        return b"".join([*pieces, text[last:]])


@functools.cache
def _patterns(kinds: tuple[str, ...]) -> dict[tuple[int, bool], list[Pattern]]:
    """Those tried at an anchor where there is no name, or one; those of few digits first."""
    patterns: dict[tuple[int, bool], list[Pattern]] = {}
    for place in range(pii_scan.SPELT_AT + 1):
        also = pii_scan.NUMBER if place == pii_scan.DOTTED else place
        some = [p for p in PATTERNS if p.kind in kinds and p.anchor in (place, also)]
        patterns[place, True] = sorted(some, key=lambda p: p.digits)
        patterns[place, False] = [p for p in patterns[place, True] if p.context is None]
    return patterns


def _window(text: bytes, end: int) -> bytes:
    """What stands before a place, ASCII in lower case: there a name may be."""
    return text[max(0, end - _CONTEXT_BYTES) : end].lower()


def _matches(pattern: Pattern, text: bytes, start: int, end: int) -> list[tuple[int, int, Found]]:
    """The valid matches of a pattern at an anchor: whole match from, to, and what to replace."""
    first = max(0, start - pattern.back)
    found: list[tuple[int, int, Found]] = []
    if pattern.search:
        candidates = list(pattern.expression.finditer(text, first, end + _LOOK_AHEAD))
    else:
        match = pattern.expression.match(text, first)
        candidates = [] if match is None else [match]
    for match in candidates:
        begin, stop = match.span()
        before = _window(text, begin) if pattern.context or pattern.unless else b""
        if pattern.context is not None and not pattern.context.expression.search(before):
            continue
        if pattern.unless is not None and pattern.unless.expression.search(before):
            continue
        if pattern.valid is not None:
            matched = match.group()
            while not pattern.valid(matched.decode()):
                shorter = _LAST_GROUP.search(matched) if pattern.trim else None
                if shorter is None:
                    break
                matched = matched[: shorter.start()]
            else:
                stop = begin + len(matched)
                found.append((begin, stop, _replaced(pattern, match, stop)))
            continue
        found.append((begin, stop, _replaced(pattern, match, stop)))
    return found


def _replaced(pattern: Pattern, match: re.Match[bytes], stop: int) -> Found:
    if "only" in pattern.expression.groupindex:
        return Found(pattern.kind, *match.span("only"))
    return Found(pattern.kind, match.start(), stop)


def _longest(matches: list[tuple[int, int, Found]]) -> list[Found]:
    """Findings whose whole matches do not overlap: the longest first, then the earliest."""
    taken: list[tuple[int, int]] = []
    kept: list[Found] = []
    for begin, stop, found in sorted(
        matches, key=lambda m: (m[0] - m[1], m[0], KINDS.index(m[2].kind))
    ):
        if all(stop <= low or high <= begin for low, high in taken):
            taken.append((begin, stop))
            kept.append(found)
    return sorted(kept, key=lambda found: found.start)


def _add(documents: pa.Table, name: str, counts: NDArray[np.int32]) -> pa.Table:
    """`documents` with counts in a column, on top of those of an earlier stage."""
    if name not in documents.column_names:
        return documents.append_column(name, pa.array(counts))
    index = documents.column_names.index(name)
    earlier = documents.column(name).to_numpy()
    return documents.set_column(index, name, pa.array(counts + earlier.astype(np.int32)))
