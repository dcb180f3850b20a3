"""One request while it is being written: its tokens, its place in the cache, its text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from trivium.data_pipeline.tokenizer import TextStream, Tokenizer
from trivium.engine.generation.request import Finish, Request, Token


@dataclass(eq=False)
class Writing:
    """A request in a slot. `cached` positions of `tokens` are in the cache of the trunk."""

    number: int
    request: Request
    replica: int  # the data-parallel rank that writes it
    slot: int
    tokens: list[int]
    written: _Text
    cached: int = 0
    answer: list[int] = field(default_factory=list)
    proposals: list[int] = field(default_factory=list)  # of a speculation, to be verified
    finish: Finish | None = None
    trunk_steps: int = 0

    @property
    def in_prompt(self) -> bool:
        """Has the prompt yet to be read to its end?"""
        return not self.answer and self.cached < len(self.tokens) - 1

    def take(self, tokens: Sequence[Token]) -> list[Token]:
        """Add new tokens until one ends the answer; gives those added, with their text."""
        added: list[Token] = []
        for token in tokens:
            if token.id in self.request.stop_ids:
                self._end("stop", added)
                break
            self.tokens.append(token.id)
            self.answer.append(token.id)
            text, stopped = self.written.push(token.id)
            added.append(replace(token, text=text))
            if stopped:
                self.finish = "stop"
                break
            if len(self.answer) == self.request.max_new_tokens:
                self._end("length", added)
                break
        return added

    def _end(self, how: Finish, added: list[Token]) -> None:
        """Nothing more comes, so what was held back of the text can go, unless it stops there."""
        rest, stopped = self.written.flush()
        self.finish = "stop" if stopped else how
        if rest and added:
            added[-1] = replace(added[-1], text=added[-1].text + rest)
        elif rest:
            self.written.late = rest


class _Text:
    """The text of an answer as it grows, up to the first stop string.

    late: what came to light when a stop id ended the answer, and belongs to no token of this step.
    """

    def __init__(self, tokenizer: Tokenizer, stop: tuple[str, ...]) -> None:
        self._stream = TextStream(tokenizer)
        self._stop = stop
        self._held = ""
        self._keep = max((len(one) for one in stop), default=1) - 1
        self.late = ""

    def push(self, id: int) -> tuple[str, bool]:
        """(text that can no longer change or be cut, whether a stop string is complete)."""
        return self._release(self._stream.push(id), final=False)

    def flush(self) -> tuple[str, bool]:
        """The rest."""
        return self._release(self._stream.flush(), final=True)

    def _release(self, more: str, final: bool) -> tuple[str, bool]:
        text = self._held + more
        found = [at for at in (text.find(one) for one in self._stop) if at >= 0]
        if found:
            self._held = ""
            return text[: min(found)], True
        keep = 0 if final else self._unfinished(text)
        self._held = text[len(text) - keep :] if keep else ""
        return text[: len(text) - keep], False

    def _unfinished(self, text: str) -> int:
        """Characters at the end that may be the beginning of a stop string."""
        for count in range(min(self._keep, len(text)), 0, -1):
            tail = text[len(text) - count :]
            if any(one.startswith(tail) for one in self._stop):
                return count
        return 0


def begin(number: int, request: Request, replica: int, slot: int, tokenizer: Tokenizer) -> Writing:
    """A request that has been given a slot."""
    written = _Text(tokenizer, request.stop)
    return Writing(number, request, replica, slot, list(request.prompt), written)
