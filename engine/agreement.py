"""Failing together: what one rank cannot accept, no rank accepts, in the same words.

A rank that raises alone leaves the others waiting in a collective. Whatever may be refused on one
rank only (files, disks) is done through these, so that all leave with the same line and status.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch.distributed as dist

from trivium.data_pipeline.errors import InputError

T = TypeVar("T")


class AgreedError(InputError):
    """An InputError that every rank raises: one of them is enough to print it."""


def everywhere(work: Callable[[], T]) -> T:
    """Run `work` on every rank; if any refuses with InputError, all do. Collective."""
    result, problem = None, None
    try:
        result = work()
    except InputError as error:
        problem = str(error)
    problems: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(problems, problem)
    for found in problems:
        if found is not None:
            raise AgreedError(found)
    return result  # type: ignore[return-value]


def on_first(work: Callable[[], T]) -> T:
    """Run `work` on rank 0 and give its result, or its InputError, to every rank. Collective."""
    answer: list[object] = [None, None]
    if dist.get_rank() == 0:
        try:
            answer[0] = work()
        except InputError as error:
            answer[1] = str(error)
    dist.broadcast_object_list(answer, src=0)
    if answer[1] is not None:
        raise AgreedError(str(answer[1]))
    return answer[0]  # type: ignore[return-value]
