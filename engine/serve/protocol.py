"""OpenAI's requests and answers: what is taken, what is refused, and the shapes that go back.

Fields that change nothing here (`user`, `metadata`) are taken and left alone; fields that would
change the answer and are not supported are refused by name, so that nobody thinks they were heeded.
"""

from __future__ import annotations

import time
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trivium.engine.generation.request import Finish, Sampling, Token


class Problem(Exception):
    """A request that is refused: HTTP status, message, the field it is about."""

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def body(self) -> dict[str, Any]:
        """As OpenAI's clients expect it."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(self.status, kind)
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class StreamOptions(_Strict):
    """What a stream carries beside tokens."""

    include_usage: bool = False
    include_obfuscation: bool = False


class _Common(_Strict):
    """Of both endpoints."""

    model: str
    temperature: float = Field(1.0, ge=0, le=100)
    top_p: float = Field(1.0, gt=0, le=1)
    n: int = Field(1, ge=1)
    stream: bool = False
    stream_options: StreamOptions | None = None
    stop: str | list[str] | None = None
    seed: int | None = Field(None, ge=-(2**63), le=2**64 - 1)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    max_tokens: int | None = Field(None, ge=1)
    # not OpenAI's, but other servers'
    top_k: int = Field(0, ge=0)
    min_p: float = Field(0.0, ge=0, le=1)
    repetition_penalty: float = Field(1.0, gt=0, le=100)
    # taken, and change nothing
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    def sampling(self) -> Sampling:
        """As the generator has it."""
        return Sampling(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            frequency_penalty=self.frequency_penalty,
            presence_penalty=self.presence_penalty,
        )

    def stops(self) -> tuple[str, ...]:
        """Stop strings; an empty one stops nothing."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if len(given) > 16 or any(len(one) > 1000 for one in given):
            raise Problem(400, "stop: at most 16 strings of at most 1000 characters", "stop")
        return tuple(one for one in given if one)

    def usage_in_stream(self) -> bool:
        """Does the stream end with a chunk of usage?"""
        return self.stream_options is not None and self.stream_options.include_usage


class TextPart(_Strict):
    """A part of a message."""

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """A turn. Templates may read fields that are not named here."""

    model_config = ConfigDict(extra="allow", strict=True)

    role: str
    content: str | list[TextPart] | None = None

    def plain(self) -> dict[str, Any]:
        """For a template: the content as one text."""
        made = self.model_dump(exclude_none=True)
        if isinstance(self.content, list):
            made["content"] = "".join(part.text for part in self.content)
        made.setdefault("content", "")
        return made


class ChatRequest(_Common):
    """Of /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: list[dict[str, Any]] | None = None
    response_format: dict[str, Any] | None = None

    def check(self) -> None:
        """Raise Problem for what fields say together."""
        if self.top_logprobs is not None and not self.logprobs:
            raise Problem(400, "top_logprobs: needs logprobs=true", "top_logprobs")
        if self.response_format not in (None, {"type": "text"}):
            raise Problem(400, "response_format: only text is supported", "response_format")

    def limit(self) -> int | None:
        """New tokens at most, if it says so."""
        return self.max_completion_tokens or self.max_tokens


class CompletionRequest(_Common):
    """Of /v1/completions."""

    prompt: str | list[str] | list[int] | list[list[int]]
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool = False
    best_of: int | None = None
    suffix: str | None = None

    def check(self) -> None:
        """Raise Problem for what fields say together."""
        if self.best_of not in (None, self.n):
            raise Problem(400, "best_of: is not supported; ask for n and choose", "best_of")
        if self.suffix:
            raise Problem(400, "suffix: is not supported", "suffix")
        if self.echo and self.logprobs is not None:
            raise Problem(400, "echo: not together with logprobs", "echo")

    def limit(self) -> int | None:
        """New tokens at most; OpenAI's default here is 16."""
        return self.max_tokens or 16


def read(form: type[Any], body: Any) -> Any:
    """`body` as the form; Problem 400 that names the first field that does not fit."""
    if not isinstance(body, dict):
        raise Problem(400, "the body must be a JSON object")
    try:
        made = form.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise Problem(400, f"{place}: is not supported", place) from error
        raise Problem(400, f"{place}: {first['msg']}", place) from error
    made.check()
    return made


# --- Answers --------------------------------------------------------------------------------------


def usage(prompt: int, completion: int) -> dict[str, int]:
    """Tokens read and written."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


def envelope(kind: str, id: str, model: str, choices: list[Any]) -> dict[str, Any]:
    """What every answer and every chunk has around it."""
    made = {"id": id, "object": kind, "created": int(time.time()), "model": model}
    return made | {"choices": choices}


def finish_reason(finish: Finish | None) -> str | None:
    """Ours are OpenAI's, but for what was given up."""
    return "stop" if finish == "cancelled" else finish


class Pieces:
    """Texts of single tokens, as log-probabilities name them."""

    def __init__(self, decode: Any) -> None:
        self.decode = decode

    def one(self, id: int, logprob: float) -> dict[str, Any]:
        """A token of the chat API."""
        text = self.decode([id])
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    def chat(self, tokens: list[Token]) -> dict[str, Any]:
        """`logprobs` of a chat's choice."""
        content = [
            self.one(token.id, token.logprob)
            | {"top_logprobs": [self.one(*alternative) for alternative in token.top]}
            for token in tokens
        ]
        return {"content": content, "refusal": None}

    def text(self, tokens: list[Token], offset: int) -> dict[str, Any]:
        """`logprobs` of a completion's choice; offset: characters before the first token."""
        made: dict[str, Any] = {
            "tokens": [],
            "token_logprobs": [],
            "top_logprobs": [],
            "text_offset": [],
        }
        for token in tokens:
            text = self.decode([token.id])
            made["tokens"].append(text)
            made["token_logprobs"].append(token.logprob)
            best = {self.decode([id]): value for id, value in token.top}
            made["top_logprobs"].append(best | {text: token.logprob})
            made["text_offset"].append(offset)
            offset += len(text)
        return made
