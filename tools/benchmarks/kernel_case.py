"""One kernel benchmark: what is run, on which data, and how much of it must move."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Case:
    """A pass of one operator at one shape, and who competes at it ("ours" first)."""

    name: str  # "rms_norm forward 8192 x 4096 bf16"
    inputs: Callable[[], tuple[Any, ...]]  # one fresh random set on the GPU
    contestants: dict[str, Callable[..., Any]]  # each is called with *inputs
    bytes: int = 0  # least traffic: each input read once, each output written once
    flops: int = 0
    target: str = ""  # from kernels.md, in its words
