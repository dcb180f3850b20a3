"""Leaving cleanly: SIGTERM and SIGINT end a run after the current step, with a checkpoint."""

from __future__ import annotations

import signal
from types import FrameType

import torch
import torch.distributed as dist

from trivium.engine.mesh import Mesh


class StopRequest:
    """Whether somebody has asked this run to stop.

    A signal reaches ranks at different times, or only one of them: they agree after every step.
    A second SIGINT ends the process at once.
    """

    def __init__(self) -> None:
        self._asked: int | None = None
        self._old: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._old[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._asked is not None and number == signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self._asked = number

    def agreed(self, mesh: Mesh) -> bool:
        """Has any rank been asked? Collective over the world."""
        if mesh.layout.world_size == 1:
            return self._asked is not None
        flag = torch.tensor(int(self._asked is not None), device=torch.cuda.current_device())
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        return bool(flag)
