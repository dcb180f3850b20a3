"""Where tasks run: in this process, in a pool of processes, or on a Ray cluster.

An executor calls a function on each of some arguments, in any order, and yields the arguments as
they are done. The function is idempotent (`tasks.py`): what an executor repeats does no harm.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Any, Literal, TypeVar

from .errors import InputError
from .workers import default_workers, process_pool

T = TypeVar("T")
ExecutorName = Literal["local", "ray"]

_IN_FLIGHT = 4  # tasks submitted for each worker: enough to keep all busy


class Executor:
    """Runs work in this process; other places are below. A context, which closes what it opened."""

    def __call__(self, work: Callable[[T], None], arguments: Sequence[T]) -> Iterator[T]:
        """Call `work` on every argument; yield each when it is done, in any order."""
        for argument in arguments:
            work(argument)
            yield argument

    def close(self) -> None:
        """Stop what was started."""

    def __enter__(self) -> Executor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def executor_for(name: ExecutorName, workers: int = 0) -> Executor:
    """`local`: `workers` processes (0: one for each core; 1: this one). `ray`: a cluster."""
    if name == "ray":
        return _Ray(workers)
    workers = workers or default_workers()
    return Executor() if workers == 1 else _Pool(workers)


class _Pool(Executor):
    """Processes of this machine, started when they are first needed and kept until `close`."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._pool: ProcessPoolExecutor | None = None

    def __call__(self, work: Callable[[T], None], arguments: Sequence[T]) -> Iterator[T]:
        if len(arguments) < 2 and self._pool is None:  # not worth starting processes
            yield from super().__call__(work, arguments)
            return
        self._pool = self._pool or process_pool(self.workers)
        waiting = list(reversed(arguments))
        flying: dict[Future[None], T] = {}
        done = 0
        try:
            while waiting or flying:
                while waiting and len(flying) < _IN_FLIGHT * self.workers:
                    argument = waiting.pop()
                    flying[self._pool.submit(work, argument)] = argument
                finished, _ = wait(flying, return_when=FIRST_COMPLETED)
                for future in finished:
                    future.result()
                    done += 1
                    yield flying.pop(future)
        except BrokenProcessPool as error:
            raise _killed(done, len(arguments)) from error
        finally:
            for future in flying:
                future.cancel()

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None


class _Ray(Executor):
    """The cluster at RAY_ADDRESS, or Ray on this machine; all nodes must see the same files."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._ours = False

    def __call__(self, work: Callable[[T], None], arguments: Sequence[T]) -> Iterator[T]:
        if not arguments:
            return
        ray = self._started()
        # A worker that is killed is tried twice more; an error of the task is final.
        remote = ray.remote(num_cpus=1, max_retries=2, retry_exceptions=False)(_quietly)
        most = _IN_FLIGHT * max(1, int(ray.cluster_resources().get("CPU", 1)))
        waiting = list(reversed(arguments))
        flying: dict[Any, T] = {}
        done = 0
        try:
            while waiting or flying:
                while waiting and len(flying) < most:
                    argument = waiting.pop()
                    flying[remote.remote(work, argument)] = argument
                finished, _ = ray.wait(list(flying))
                for reference in finished:
                    problem = ray.get(reference)
                    if problem is not None:
                        raise InputError(problem)
                    done += 1
                    yield flying.pop(reference)
        except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
            raise _killed(done, len(arguments)) from error
        finally:
            for reference in flying:
                ray.cancel(reference, force=True)

    def _started(self) -> Any:
        try:
            import ray
        except ImportError:
            raise InputError("executor: ray needs it: pip install 'trivium[ray]'") from None
        if not ray.is_initialized():
            cluster = os.environ.get("RAY_ADDRESS")
            local = {} if cluster else {"num_cpus": self.workers or default_workers()}
            try:
                ray.init(
                    address=cluster or "local", include_dashboard=None if cluster else False,
                    log_to_driver=False, logging_level="ERROR", **local,
                )  # fmt: skip
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise InputError(
                    f"Ray at {cluster or 'this machine'} cannot be reached ({error}): "
                    "see RAY_ADDRESS"
                ) from error
            self._ours = True
        return ray

    def close(self) -> None:
        if self._ours:
            import ray

            ray.shutdown()
            self._ours = False


def _quietly(work: Callable[[T], None], argument: T) -> str | None:
    """An InputError as text: Ray wraps what a task raises into a class of its own."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        work(argument)
    except InputError as error:
        return str(error)
    return None


def _killed(done: int, total: int) -> InputError:
    return InputError(
        f"a worker process was killed, most often for lack of memory ({done} of {total} tasks were "
        "done and are kept): run again with fewer workers (workers=1)"
    )
