"""The process that ranks are forked from: it imports torch and megatron-core once, and stays idle.

pytest itself stays clean, because `device.prepare` replaces functions of torch process-wide. The
nursery has no tensors, no threads and no process group, so a fork of it is a rank that has
everything imported: 10 ms each instead of 4 s. Run as `python -m tests.distributed.nursery FD`,
where FD is its end of a socket pair; it ends with the other end.

Ranks are forked anew for every job. Measured here (2 cores, torch 2.13, FileStore): from request to
mesh 0.03 / 0.09 / 0.14 / 0.20 s at 1 / 2 / 4 / 8 ranks, of which keeping ranks alive between jobs
would save the fork and `init_process_group`, 0.02 - 0.06 s; the rest is the process groups of the
mesh, which a job makes anyway. So there is no pool to poison: every job starts from the same state.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import importlib
import os
import pickle
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

_GRACE = 0.3  # seconds in which a second report may show that the first was only a consequence


@dataclass(frozen=True)
class Call:
    """A function by name and its pickled arguments, opened only in the rank."""

    module: str
    name: str
    arguments: bytes  # of (args, kwargs)

    def resolve(self) -> Callable[..., Any]:
        """The function; of one decorated with `distributed`, what it decorates."""
        found: Any = importlib.import_module(self.module)
        for part in self.name.split("."):
            found = getattr(found, part)
        return getattr(found, "rank_body", found)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Job:
    """A call to make on every rank of a world of its own."""

    call: Call
    world_size: int
    timeout: float  # seconds


@dataclass(frozen=True)
class Failure:
    """Why a job failed: the rank that failed first, and its traceback."""

    rank: int
    report: str
    kind: str  # class name of the exception, or how the rank ended


@dataclass
class Rank:
    """A forked rank, seen from the nursery."""

    number: int
    pid: int
    results: Connection
    stacks: str  # file that the rank writes its stacks to when asked
    answered: bool = False


@dataclass
class World:
    """The ranks of one job, their store, and what has come back from them."""

    job: Job
    folder: str
    requests: Connection  # readable only when the other end has gone
    ranks: list[Rank] = field(default_factory=list)
    answers: dict[int, bytes] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)

    def run(self) -> list[bytes] | Failure:
        """Fork, collect every rank's answer, and leave no process behind."""
        try:
            for number in range(self.job.world_size):
                self._fork(number)
            self._collect()
        finally:
            self._kill()
        if self.failures:
            return _origin(self.failures)
        return [self.answers[number] for number in range(self.job.world_size)]

    def _fork(self, number: int) -> None:
        reader, writer = os.pipe()
        stacks = os.path.join(self.folder, f"stacks-{number}")
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            for other in self.ranks:
                other.results.close()
            _be_rank(number, self.job, self.folder, stacks, Connection(writer, readable=False))
        os.close(writer)
        self.ranks.append(Rank(number, pid, Connection(reader, writable=False), stacks))

    def _collect(self) -> None:
        deadline = time.monotonic() + self.job.timeout
        open_ranks = {rank.results: rank for rank in self.ranks}
        while open_ranks:
            left = max(0.0, deadline - time.monotonic())
            ready = wait([*open_ranks, self.requests], left)
            if self.requests in ready:
                raise EOFError
            for connection in ready:
                assert isinstance(connection, Connection)
                self._receive(open_ranks.pop(connection))
            if self.failures:
                deadline = min(deadline, time.monotonic() + _GRACE)
            if not ready:
                if not self.failures:
                    self.failures.append(self._timed_out(list(open_ranks.values())))
                return

    def _receive(self, rank: Rank) -> None:
        try:
            kind, payload = pickle.loads(rank.results.recv_bytes())
        except EOFError:
            kind, payload = _ending(rank.pid), "the process ended without a traceback"
        rank.answered = True
        if kind == "ok":
            self.answers[rank.number] = payload
        else:
            self.failures.append(Failure(rank.number, payload, kind))

    def _timed_out(self, silent: list[Rank]) -> Failure:
        """Where every silent rank is: a hang is two ranks in different collectives."""
        for rank in silent:
            os.kill(rank.pid, signal.SIGUSR1)
        time.sleep(0.5)
        ranks = f"{len(silent)} of {self.job.world_size} ranks"
        lines = [f"no answer within {self.job.timeout:g} s from {ranks}"]
        for rank in silent:
            with open(rank.stacks) as file:
                lines += [f"--- rank {rank.number}", file.read()]
        return Failure(silent[0].number, "\n".join(lines), "timeout")

    def _kill(self) -> None:
        for rank in self.ranks:
            if rank.answered and not self.failures:
                continue
            os.kill(rank.pid, signal.SIGKILL)  # not yet waited for, so the pid is still its own
        for rank in self.ranks:
            os.waitpid(rank.pid, 0)
            rank.results.close()


def _origin(failures: list[Failure]) -> Failure:
    """The failure that came first; but a dead rank before those whose connection it closed."""
    dead = [failure for failure in failures if failure.kind.startswith("ended")]
    return (dead or failures)[0]


def _ending(pid: int) -> str:
    """How a process that closed its pipe came to its end; it stays to be waited for."""
    info = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert info is not None
    if info.si_code == os.CLD_EXITED:
        return f"ended with exit status {info.si_status}"
    return f"ended by {signal.Signals(info.si_status).name}"


def _be_rank(number: int, job: Job, folder: str, stacks: str, results: Connection) -> None:
    """Join the world, call, answer; never returns into the nursery's code."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: not to outlive the nursery
    with open(stacks, "w") as file:
        faulthandler.register(signal.SIGUSR1, file, all_threads=False)
        try:
            answer = "ok", _call(number, job, folder)
        except BaseException as error:
            answer = type(error).__name__, traceback.format_exc()
        try:
            results.send_bytes(pickle.dumps(answer))
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(0)


def _call(number: int, job: Job, folder: str) -> bytes:
    import torch
    import torch.distributed as dist

    os.environ.update(RANK=str(number), WORLD_SIZE=str(job.world_size), LOCAL_RANK=str(number))
    torch.manual_seed(0)
    store = dist.FileStore(os.path.join(folder, "store"), job.world_size)
    dist.init_process_group("gloo", store=store, rank=number, world_size=job.world_size)
    args, kwargs = pickle.loads(job.call.arguments)
    answer = pickle.dumps(job.call.resolve()(*args, **kwargs))
    dist.barrier()  # nobody closes a connection that another still reads from
    return answer


def _prepare() -> None:
    """Import whatever ranks need, and nothing that makes a tensor or a thread."""
    import pytest  # noqa: F401 - test modules import it
    import torch
    import torch._dynamo

    from trivium.engine import device

    device.prepare()
    torch.set_num_threads(1)
    for module in ("optimizer", "step", "model.gpt"):
        importlib.import_module(f"trivium.engine.{module}")
    gc.collect()
    gc.freeze()  # or the first collection of every rank copies each page that holds an object


def main() -> None:
    """Answer jobs until the other end is closed."""
    requests = Connection(int(sys.argv[1]))
    _prepare()
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            job = requests.recv()
            with tempfile.TemporaryDirectory(prefix="trivium-world-") as folder:
                requests.send(World(job, folder, requests).run())


if __name__ == "__main__":
    # ranks unpickle and name these classes by their import path, not as __main__
    from tests.distributed.nursery import main as imported_main

    imported_main()
