"""How long a call takes on this device: rotated inputs, events, graph replay where calls are short.

On a GPU a figure is device time. Inputs are rotated over more than three times the last-level
cache, and outputs are kept as long, so that nothing is read from where the last call left it. A
kernel that keeps the GPU busy ahead of the first event gives the host a head start, so that slow
Python is not what is timed; calls under 50 us are replayed from a CUDA graph. Without a GPU the
wall clock is read: that shows that a case runs, not how fast.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from tools.benchmarks.kernel_case import Case

GRAPH_UNDER = 50e-6  # seconds
HEAD_START = 0.02  # seconds, at most
MEASURE = 0.012  # seconds of calls in one measurement
CACHES = 3  # how many of the last-level cache the inputs outgrow
CYCLES = 2e9  # a second, of the GPU's clock: only scales the head start


class Contestant:
    """A call, warmed up on its rotated inputs. `seconds` times it; `peak` is memory of one call."""

    def __init__(self, call: Callable[..., Any], sets: Sequence[tuple[Any, ...]]) -> None:
        self.call, self.sets = call, sets
        self.kept: list[Any] = [None] * len(sets)
        self.next = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.captured = 1  # calls in the graph
        self.peak = self._first()
        self.issue, self.calls = 0.0, 1
        for _ in range(2):  # the second without what only a first call does
            began = time.perf_counter()
            self._again(1)
            self.issue = time.perf_counter() - began
            _synchronize()
        once = self.seconds()
        self.calls = _between(3, MEASURE / max(once, 1e-7), 100)
        if torch.cuda.is_available():
            self.calls = min(self.calls, max(3, int(HEAD_START / max(self.issue, 1e-7))))
            once = self.seconds()
            if once < GRAPH_UNDER:
                self._capture(once)

    @property
    def how(self) -> str:
        """Which way of timing is used: graph, events or wall clock."""
        if not torch.cuda.is_available():
            return "wall"
        return "graph" if self.graph is not None else "events"

    def seconds(self) -> float:
        """Seconds of a call, mean over one measurement."""
        if not torch.cuda.is_available():
            began = time.perf_counter()
            self._again(self.calls)
            return (time.perf_counter() - began) / self.calls
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        _synchronize()
        ahead = 1e-4 if self.graph is not None else self.issue * self.calls
        torch.cuda._sleep(int(min(HEAD_START, 1.2 * ahead + 1e-4) * CYCLES))
        start.record()
        if self.graph is not None:
            for _ in range(self.calls):
                self.graph.replay()
        else:
            self._again(self.calls)
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3 / (self.calls * self.captured)

    def _first(self) -> int:
        """The first call, checked for faults; then the memory that a second one takes at most."""
        self._again(1)
        _synchronize()
        if not torch.cuda.is_available():
            return 0
        self.kept[0] = None
        self.next = 0
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        self._again(1)
        _synchronize()
        return torch.cuda.max_memory_allocated() - before

    def _again(self, calls: int) -> None:
        for _ in range(calls):
            self.kept[self.next] = self.call(*self.sets[self.next])
            self.next = (self.next + 1) % len(self.sets)

    def _free_running(self) -> bool:
        """Does a call never wait for the device? One that does cannot be recorded in a graph."""
        torch.cuda.set_sync_debug_mode("error")
        try:
            self._again(1)
        except RuntimeError:
            return False
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return True

    def _capture(self, once: float) -> None:
        """Record calls over all input sets in a graph, if they can be recorded."""
        if not self._free_running():
            return
        count = _between(20, len(self.sets), 64)
        graph = torch.cuda.CUDAGraph()
        self.next = 0
        try:
            with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
                self._again(count)
            graph.replay()
        except Exception:
            _synchronize()  # raises where it was no refusal but a fault
            self.kept = [None] * len(self.sets)
            self.next = 0
            return
        _synchronize()
        self.graph, self.captured = graph, count
        self.calls = _between(2, MEASURE / (once * count), 50)


class _OnCPU(TorchFunctionMode):
    """`device="cuda"` and `.cuda()` mean the CPU."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.cuda:
            return args[0]
        if str(kwargs.get("device", "")).startswith("cuda"):
            kwargs["device"] = "cpu"
        if func is torch.Tensor.to and len(args) > 1 and str(args[1]).startswith("cuda"):
            args = (args[0], "cpu", *args[2:])
        return func(*args, **kwargs)


@contextlib.contextmanager
def on_stream() -> Iterator[None]:
    """A stream of its own for all work, autograd's too: the default one cannot be recorded.

    Without a GPU, tensors that are asked for on one are made on the CPU.
    """
    if not torch.cuda.is_available():
        with _OnCPU():
            yield
        return
    with torch.cuda.stream(torch.cuda.Stream()):
        yield


def rotation(inputs: Callable[[], tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Fresh input sets that together outgrow the cache, within a quarter of the free memory."""
    first = inputs()
    if not torch.cuda.is_available():
        return [first, inputs()]
    size = max(1, size_of(first))
    cache = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
    wanted = math.ceil(CACHES * cache / size)
    room = torch.cuda.mem_get_info()[0] // 4 // size
    return [first, *(inputs() for _ in range(_between(1, min(wanted, room), 64) - 1))]


def size_of(value: Any) -> int:
    """Bytes of all tensors in `value`, shared storage counted once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in _all(value)}
    return sum(storages.values())


def _all(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _all(list(value.values()))
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _all(one)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from _all(list(vars(value).values()))


def ceilings(tiny: bool) -> dict[str, float]:
    """What the device gives: bytes a second of a large copy, FLOP/s of a bf16 matrix product."""
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    count = 1 << (30 if cuda and not tiny else 22)  # of two bytes each
    side = 8192 if cuda and not tiny else 256

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=device, dtype=torch.bfloat16)

    copy = Case(
        "copy", lambda: (normal(count), normal(count)), {"copy": lambda a, b: b.copy_(a)}, 4 * count
    )
    product = Case(
        "product",
        lambda: (normal(side, side), normal(side, side), normal(side, side)),
        {"product": lambda a, b, out: torch.mm(a, b, out=out)},
        flops=2 * side**3,
    )
    found = {}
    for case in (copy, product):
        ready = Contestant(case.contestants[case.name], rotation(case.inputs))
        best = statistics.median(ready.seconds() for _ in range(7))
        found[case.name] = (case.bytes or case.flops) / best
    return found


def _between(least: int, wanted: float, most: int) -> int:
    return int(max(least, min(math.ceil(wanted), most)))


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
