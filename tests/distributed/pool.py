"""Functions on N real ranks over gloo: `run_distributed(function, world_size)`, `@distributed`.

Ranks are forked from one nursery process (`nursery.py`), started at the first use, so that pytest
itself never holds a process group nor the replaced functions of `engine.host`. What a rank needs is
found by name: functions live at the top of a module, arguments and results can be pickled.
"""

from __future__ import annotations

import atexit
import functools
import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.distributed.nursery import Call, Failure, Job

ROOT = Path(__file__).parents[2]
DEFAULT_TIMEOUT = 180.0  # seconds


class RankError(AssertionError):
    """A rank failed. `rank` and `kind` (exception class, timeout, or how it ended) say which."""

    def __init__(self, failure: Failure, world_size: int) -> None:
        super().__init__(
            f"rank {failure.rank} of {world_size}: {failure.kind}\n{failure.report.rstrip()}"
        )
        self.rank, self.kind, self.report = failure.rank, failure.kind, failure.report


class Nursery:
    """The nursery process and the socket to it."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]),
            "TRIVIUM_DEVICE": "cpu",
            "OMP_NUM_THREADS": "1",
            "PYTHONWARNINGS": "ignore",  # megatron-core's, about extensions that are not there
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.distributed.nursery", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=environment,
            cwd=ROOT,
        )
        theirs.close()
        self.connection = Connection(ours.detach())

    def run(self, job: Job) -> list[bytes] | Failure:
        """Run one job to its end."""
        self.connection.send(job)
        try:
            return self.connection.recv()  # type: ignore[no-any-return]
        except EOFError:
            raise RuntimeError(
                f"the nursery of ranks ended with status {self.process.wait()}; its standard error "
                "says why"
            ) from None

    def close(self) -> None:
        """End it, and its ranks with it."""
        self.connection.close()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


_nursery: Nursery | None = None


def run_distributed(
    function: Callable[..., Any],
    world_size: int,
    *args: Any,
    timeout: float = DEFAULT_TIMEOUT,
    **kwargs: Any,
) -> list[Any]:
    """Call `function(*args, **kwargs)` on `world_size` ranks; their results in rank order.

    Each rank is in an initialised gloo process group, on one thread, prepared for megatron-core.
    Raises RankError with the traceback of the rank that failed first, or with every silent rank's
    stack after `timeout` seconds; either way no rank is left alive.
    """
    global _nursery
    if "<" in function.__qualname__:
        raise ValueError(f"{function.__qualname__}: a rank finds functions by name; move it to the "
                         "top of its module")  # fmt: skip
    call = Call(function.__module__, function.__qualname__, pickle.dumps((args, kwargs)))
    if _nursery is None or _nursery.process.poll() is not None:
        _nursery = Nursery()
    outcome = _nursery.run(Job(call, world_size, timeout))
    if isinstance(outcome, Failure):
        raise RankError(outcome, world_size)
    return [pickle.loads(answer) for answer in outcome]


def distributed(
    world_size: int, timeout: float = DEFAULT_TIMEOUT
) -> Callable[[Callable[..., Any]], Callable[..., None]]:
    """Decorate a test so that its body runs on every rank; fixtures and parameters are pickled."""

    def decorate(function: Callable[..., Any]) -> Callable[..., None]:
        @functools.wraps(function)
        def test(**kwargs: Any) -> None:
            run_distributed(function, world_size, timeout=timeout, **kwargs)

        test.rank_body = function  # type: ignore[attr-defined]
        return test

    return decorate


@atexit.register
def close() -> None:
    """End the nursery, if there is one."""
    global _nursery
    if _nursery is not None:
        _nursery.close()
        _nursery = None
