"""How a model wants to be talked to, as the folder it came from says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Dialogue:
    """Control tokens by id, and a chat template (Jinja) with those it names, where there is one."""

    bos_id: int | None = None
    begin_ids: tuple[int, ...] = ()  # put before a text by the tokenizer itself
    stop_ids: frozenset[int] = frozenset()  # any of them ends an answer
    chat_template: str | None = None
    named_tokens: Mapping[str, str] = field(default_factory=dict)  # bos_token and the like
