"""How a model wants to be talked to, as the folder it came from says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Dialogue:
    """Control tokens by id, and a chat template (Jinja), where there are any."""

    bos_id: int | None = None  # begins a text, where the model was trained so
    stop_ids: frozenset[int] = frozenset()  # any of them ends an answer
    chat_template: str | None = None
