"""What one piece of text has that another has not, word by word."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

WORDS = 1500  # of a piece that are compared; the rest is shown without marks

# Characters of scripts without spaces between words stand alone: Thai to Khmer, kana, Han.
_ALONE = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u30ff\u3400-\u9fff\uf900-\ufaff\uff66-\uff9f"
    "\U00020000-\U0003ffff"
)
_WORD = re.compile(rf"(?:[{_ALONE}]|[^\W{_ALONE}]+|[^\w\s])\s*")


class Run(NamedTuple):
    """Words in a row: of both, of this text only, or of the other only."""

    kind: Literal["both", "here", "there"]
    text: str


def difference(here: str, there: str, *, cut: bool = False) -> Iterator[Run]:
    """`here` as runs, in order; between them what only `there` has.

    White space is shown and not compared. cut: texts go on beyond these pieces, so that what one
    has left at its end says nothing, and is not marked.
    """
    mine, theirs = _WORD.findall(here), _WORD.findall(there)
    rest = "".join(mine[WORDS:])
    cut = cut or max(len(mine), len(theirs)) > WORDS
    mine, theirs = mine[:WORDS], theirs[:WORDS]
    begins = here[: len(here) - len("".join(mine)) - len(rest)]
    if begins:  # white space before the first word
        yield Run("both", begins)
    changes = _changes([word.strip() for word in theirs], [word.strip() for word in mine])
    for number, (tag, a, b, c, d) in enumerate(changes):
        lost, found = "".join(theirs[a:b]), "".join(mine[c:d])
        last = cut and number > 0 and number == len(changes) - 1
        if tag == "equal" or (last and tag == "insert"):
            yield Run("both", found)
            continue
        if lost and not (last and tag == "delete"):
            yield Run("there", lost)
        if found:
            yield Run("here", found)
    if rest:
        yield Run("both", rest)


def _changes(old: list[str], new: list[str]) -> list[tuple[str, int, int, int, int]]:
    """difflib's opcodes. What both begin and end with is set aside first: it costs nothing."""
    shorter = min(len(old), len(new))
    head = next((i for i in range(shorter) if old[i] != new[i]), shorter)
    tail = next((i for i in range(shorter - head) if old[-1 - i] != new[-1 - i]), shorter - head)
    middle = difflib.SequenceMatcher(
        None, old[head : len(old) - tail], new[head : len(new) - tail]
    ).get_opcodes()
    changes = [("equal", 0, head, 0, head)] if head else []
    changes += [(tag, a + head, b + head, c + head, d + head) for tag, a, b, c, d in middle]
    if tail:
        changes.append(("equal", len(old) - tail, len(old), len(new) - tail, len(new)))
    return changes
