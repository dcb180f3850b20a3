"""Text of documents as HTML that shows it and does nothing else: documents are hostile input.

Markup is escaped. Characters that are not there to be seen (controls, overrides of the writing
direction, tags, half surrogates) become their code point in a small frame, so that a page can
neither be reordered nor broken by them, and so that whoever reads it knows that they are there.
"""

from __future__ import annotations

import html
import re

_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # controls, except tab and line feed
    "\u2028\u2029\u202a-\u202e\u2066-\u2069"  # separators of lines, directions
    "\ufeff\ufff9-\ufffb\ufffe\uffff\U000e0000-\U000e007f"  # byte order, annotations, tags
    "\ud800-\udfff]"
)


def visible(text: object) -> str:
    """HTML of a text, for the content of an element."""
    seen = html.escape(str(text).replace("\r\n", "\n"))
    return _UNSEEN.sub(lambda found: f'<span class="unseen">{_code(found)}</span>', seen)


def attribute(text: object) -> str:
    """A text for a quoted attribute: markup is escaped, what cannot be seen is spelled out."""
    return _UNSEEN.sub(_code, html.escape(str(text)))


def name(text: object) -> str:
    """A name inside a sentence: whatever its direction, it does not turn what is around it."""
    return f"<bdi>{visible(text)}</bdi>"


def passage(text: str) -> str:
    """A piece of a document as a block, in its own direction, its lines as they are."""
    return f'<div class="text" dir="auto">{visible(text)}</div>'


def _code(found: re.Match[str]) -> str:
    return f"U+{ord(found.group()):04X}"
