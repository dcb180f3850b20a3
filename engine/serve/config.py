"""What `trivium serve` takes."""

from __future__ import annotations

from dataclasses import dataclass, field

from trivium.data_pipeline.errors import InputError
from trivium.engine.schema import Dtype, ParallelConfig


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """A model, where it listens, and what it lets in."""

    model: str = ""  # a Hugging Face folder, a checkpoint, or a run's folder
    name: str | None = None  # what clients call it; default: the folder's name
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    dtype: Dtype | None = None  # default: the model's
    host: str = "127.0.0.1"  # 0.0.0.0 lets in whoever reaches the machine: set an api_key then
    port: int = 8000
    api_key: str | None = None  # asked of every request to /v1
    template: str | None = None  # a named chat template, for a model that brings none: chatml
    max_requests: int = 16  # written at a time
    queue: int = 128  # that may wait behind them; more are told to come again (429)
    max_length: int | None = None  # prompt and answer; default: the model's
    max_tokens: int = 1024  # of an answer that asks for no number
    max_choices: int = 16  # answers to one request (n)
    max_body_mb: float = 4.0
    speculate: int = 0  # tokens proposed ahead by MTP heads, or by the draft
    draft: str | None = None  # a smaller model with the same tokenizer, to propose tokens
    drain_seconds: float = 10.0  # for what is being written when the server is told to stop

    def __post_init__(self) -> None:
        for name in ("max_requests", "max_tokens", "max_choices"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}: must be at least 1; raise it")
        for name in ("queue", "speculate", "drain_seconds"):
            if getattr(self, name) < 0:
                raise InputError(f"{name}={getattr(self, name)}: must be at least 0; raise it")
        if not 0 <= self.port <= 65535:
            raise InputError(f"port={self.port}: must be from 0 to 65535")
        if self.max_body_mb <= 0:
            raise InputError(f"max_body_mb={self.max_body_mb:g}: must be above 0")
        if self.draft is not None and not self.speculate:
            raise InputError("draft: proposes nothing while speculate is 0; set speculate=4 or so")
