"""One thread that writes: requests come from the event loop by a queue, news go back to it.

All of torch happens here: gradients off is a property of a thread, and so are collectives. While
nothing is asked, other ranks wait in a step; one is made now and then, so that their wait never
runs into the limit of a collective.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from trivium.data_pipeline.errors import InputError
from trivium.engine.generation.request import Event, Request

log = logging.getLogger(__name__)
_IDLE_STEP = 20.0  # seconds


class Worker:
    """Runs a generator (`submit`, `cancel`, `step`, `busy`, a context) in a thread of its own.

    limit: requests that may be under way or waiting at a time.
    """

    def __init__(self, generator: Any, limit: int) -> None:
        self.generator, self.limit = generator, limit
        self.failure: BaseException | None = None
        self._ready = threading.Condition()
        self._asked: list[Callable[[], None]] = []
        self._queues: dict[int, tuple[asyncio.AbstractEventLoop, asyncio.Queue[Any]]] = {}
        self._count = 0
        self._counting = threading.Lock()  # both threads count
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="generator", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    @property
    def load(self) -> int:
        """Requests under way or waiting."""
        return self._count

    def reserve(self, more: int) -> bool:
        """Take so many places, which requests give back as they end; False if too many."""
        with self._counting:
            if self._count + more > self.limit:
                return False
            self._count += more
            return True

    def give_back(self, places: int = 1) -> None:
        """Places that no request took, or that one has left."""
        with self._counting:
            self._count = max(0, self._count - places)

    async def submit(self, request: Request) -> tuple[int, asyncio.Queue[Any]]:
        """Queue a request that has its place; gives its number and where its events will come.

        The last event has a `finish`; an exception there says that the generator is gone. Raises
        InputError for a request that cannot be served.
        """
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[Any] = asyncio.Queue()
        done: asyncio.Future[int] = loop.create_future()

        def ask() -> None:
            try:
                number = self.generator.submit(request)
            except InputError as error:
                loop.call_soon_threadsafe(_settle, done, error)
                return
            self._queues[number] = loop, queue
            loop.call_soon_threadsafe(_settle, done, number)

        self._ask(ask)
        return await done, queue

    def cancel(self, number: int) -> None:
        """Nobody waits for this one any more."""
        self._ask(lambda: self.generator.cancel(number) if number in self._queues else None)

    def stop(self, seconds: float) -> None:
        """Finish what is under way, for so long, then end the thread."""
        until = time.monotonic() + seconds
        while self._count and self.failure is None and time.monotonic() < until:
            time.sleep(0.05)
        with self._ready:
            self._stopping = True
            self._ready.notify()
        self._thread.join(timeout=60)

    def _ask(self, work: Callable[[], None]) -> None:
        if self.failure is not None:
            raise RuntimeError("the generator has failed") from self.failure
        with self._ready:
            self._asked.append(work)
            self._ready.notify()

    def _run(self) -> None:
        try:
            with self.generator:
                while self._turn():
                    pass
                self.generator.close()
        except BaseException as error:
            log.exception("the generator has failed")
            self.failure = error
            for loop, queue in self._queues.values():
                with suppress(RuntimeError):
                    loop.call_soon_threadsafe(queue.put_nowait, error)
            self._queues = {}
            self._count = 0

    def _turn(self) -> bool:
        """One step, or a wait for something to do. False when it is time to end."""
        with self._ready:
            if not self._asked and not self.generator.busy and not self._stopping:
                self._ready.wait(timeout=_IDLE_STEP)
            asked, self._asked = self._asked, []
            stopping = self._stopping
        for work in asked:
            work()
        if stopping:
            return False
        for event in self.generator.step():
            self._tell(event)
        return True

    def _tell(self, event: Event) -> None:
        found = self._queues.get(event.request)
        if found is None:
            return
        loop, queue = found
        if event.finish is not None:
            del self._queues[event.request]
            self.give_back()
        with suppress(RuntimeError):  # the loop has ended: nobody listens
            loop.call_soon_threadsafe(queue.put_nowait, event)


def _settle(future: asyncio.Future[Any], result: Any) -> None:
    if future.cancelled():
        return
    if isinstance(result, BaseException):
        future.set_exception(result)
    else:
        future.set_result(result)
