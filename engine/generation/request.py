"""What is asked of a generator, and what comes back: plain values, without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from trivium.data_pipeline.errors import InputError

Finish = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen from the logits.

    In this order: penalties, temperature, top_k, top_p, min_p. temperature 0 is greedy.
    """

    temperature: float = 1.0
    top_k: int = 0  # this many likeliest tokens; 0: all
    top_p: float = 1.0  # the likeliest tokens that hold this much (arXiv 1904.09751)
    min_p: float = 0.0  # tokens at least this much of the likeliest one's (arXiv 2407.01082)
    # logits of tokens that were seen, prompt included, divided (positive) or multiplied (negative)
    # by this (CTRL, arXiv 1909.05858)
    repetition_penalty: float = 1.0
    # subtracted for each time, and once, that a token stands in the answer so far
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0

    def __post_init__(self) -> None:
        limits = {
            "temperature": (self.temperature >= 0, "at least 0"),
            "top_k": (self.top_k >= 0, "at least 0"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1"),
            "min_p": (0 <= self.min_p <= 1, "from 0 to 1"),
            "repetition_penalty": (self.repetition_penalty > 0, "above 0"),
            "frequency_penalty": (abs(self.frequency_penalty) <= 2, "from -2 to 2"),
            "presence_penalty": (abs(self.presence_penalty) <= 2, "from -2 to 2"),
        }
        for name, (holds, limit) in limits.items():
            if not holds:
                raise InputError(f"{name}={getattr(self, name)}: must be {limit}")


@dataclass(frozen=True, kw_only=True)
class Request:
    """One prompt to go on from. Ids in and ids out; `stop` alone is about text."""

    prompt: tuple[int, ...]  # token ids, at least one
    max_new_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0  # draws depend on it and the position in the answer, not on who else is served
    stop_ids: frozenset[int] = frozenset()  # the answer ends before any of them
    stop: tuple[str, ...] = ()  # the answer's text ends before any of them
    top_logprobs: int = 0  # so many likeliest alternatives come with every token


@dataclass(frozen=True)
class Token:
    """One token of an answer.

    logprob: of the id under the model's own distribution (softmax of its logits, without
    temperature or cuts). top: likeliest ids with theirs, as many as were asked for.
    text: what the answer's text grew by; it may lag behind while a character or a stop string is
    incomplete.
    """

    id: int
    logprob: float
    text: str = ""
    top: tuple[tuple[int, float], ...] = ()


@dataclass
class Answer:
    """What became of a request. Where it ended at a stop id, that id is not among the tokens."""

    tokens: list[Token] = field(default_factory=list)
    text: str = ""
    finish: Finish | None = None  # None while it is being written
    trunk_steps: int = 0  # passes of the trunk that gave its tokens; fewer under speculation

    @property
    def ids(self) -> list[int]:
        """The new token ids."""
        return [token.id for token in self.tokens]

    @property
    def logprobs(self) -> list[float]:
        """One for each new token."""
        return [token.logprob for token in self.tokens]


@dataclass(frozen=True)
class Event:
    """News of one request after a step: tokens that were added, and whether it is done."""

    request: int  # the number that `submit` gave
    tokens: Sequence[Token]
    finish: Finish | None
    late: str = ""  # text that a stop id let go, behind that of all tokens
    trunk_steps: int = 0  # passes of the trunk so far that gave tokens
