"""Perplexity of text: every token once, each with as much before it as windows allow."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from trivium.engine.evaluation.scoring import Text, score
from trivium.engine.opened import Opened


@dataclass(frozen=True)
class Perplexity:
    """nll: sum over tokens, in nats."""

    nll: float
    tokens: int
    bytes: int
    words: int

    @property
    def per_token(self) -> float:
        """exp of the mean nll of a token."""
        return math.exp(self.nll / self.tokens)

    @property
    def bits_per_byte(self) -> float:
        """Comparable between tokenizers."""
        return self.nll / math.log(2) / self.bytes

    @property
    def per_word(self) -> float:
        """exp of the nll for each run of characters without white space."""
        return math.exp(min(self.nll / max(1, self.words), 700.0))


def windows(count: int, length: int, stride: int) -> list[tuple[int, int, int]]:
    """(begin, end, tokens scored at its end) of windows over `count` tokens.

    Windows begin every `stride` tokens and have up to `length`; each scores what the one before it
    did not, and the first token of all is only read.
    """
    made: list[tuple[int, int, int]] = []
    seen = 1
    for begin in range(0, max(1, count), stride):
        end = min(begin + length, count)
        scored = end - max(seen, begin + 1)
        if scored > 0:
            made.append((begin, end, scored))
        seen = max(seen, end)
        if end == count:
            break
    return made


def perplexity(
    opened: Opened,
    text: str,
    length: int | None = None,
    stride: int | None = None,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> Perplexity:
    """Of one text, cut into windows of `length` tokens (default: as long as the model can, 2048 at
    most) every `stride` (default: half a window). Collective."""
    longest = opened.config.model.max_position or 1
    length = min(length or 2048, longest)
    stride = stride or max(1, length // 2)
    ids = [*opened.dialogue.begin_ids, *opened.tokenizer.encode(text)]
    texts = [
        Text(tuple(ids[begin:end]), scored)
        for begin, end, scored in windows(len(ids), length, stride)
    ]
    found = score(opened, texts, batch_tokens=max(length, 2048), told=told)
    return Perplexity(
        nll=-sum(one.sum for one in found),
        tokens=sum(one.scored for one in texts),
        bytes=len(text.encode()),
        words=len(text.split()),
    )
