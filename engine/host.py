"""megatron-core on a CPU with gloo: every replaced symbol lives here and nowhere else.

megatron-core assumes CUDA devices, CUDA streams and NCCL. `install` answers those calls with their
CPU meaning so that the very same model, schedule, optimizer and checkpoint code runs on a laptop.
It is called once, by `device.prepare`, in a worker process that has chosen the CPU; on CUDA this
module is never imported. The replacements are process-wide and never undone.

Each function below replaces one group of symbols and says why. Symbols are looked up before they
are replaced, so a megatron-core or torch that has renamed one fails here, by name, instead of
silently taking another path later. Tested with megatron-core 0.16.1.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import multiprocessing
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

_CPU = torch.device("cpu")
_installed = False


def install() -> None:
    """Make `import megatron.core` and everything behind it work on this CPU process. Idempotent."""
    global _installed
    if _installed:
        return
    if "megatron.core" in sys.modules:
        raise RuntimeError("host adapter: megatron.core was imported before device.prepare()")
    _devices()
    _streams()
    _random()
    _factories()
    _tensor_methods()
    _collectives()
    _compiler()
    _megatron_random()
    _megatron_checkpoint()
    _memory()
    _installed = True


def _replace(owner: Any, name: str, value: Any) -> Any:
    """Set owner.name, which must exist, and return what it was."""
    if not hasattr(owner, name):
        where = getattr(owner, "__name__", repr(owner))
        raise RuntimeError(f"host adapter: {where}.{name} is gone; this version is not supported")
    old = getattr(owner, name)
    setattr(owner, name, value)
    return old


def _is_cuda(device: Any) -> bool:
    """Does `device` name a CUDA device (string, index or torch.device)?"""
    if isinstance(device, str):
        return device.startswith("cuda")
    if isinstance(device, torch.device):
        return device.type == "cuda"
    return isinstance(device, int) and not isinstance(device, bool)


def _devices() -> None:
    """`torch.cuda.current_device()` is used as a value for `device=`: answer the CPU device."""
    _replace(torch.cuda, "current_device", lambda: _CPU)
    _replace(torch.cuda, "device_count", lambda: 1)
    _replace(torch.cuda, "set_device", lambda device: None)
    _replace(torch.cuda, "synchronize", lambda device=None: None)
    _replace(torch.cuda, "empty_cache", lambda: None)
    _replace(torch.cuda, "get_device_capability", lambda device=None: (0, 0))
    for name in ("memory_allocated", "max_memory_allocated", "memory_reserved"):
        _replace(torch.cuda, name, lambda device=None: 0)
    for name in ("range_push", "range_pop"):
        _replace(torch.cuda.nvtx, name, lambda *args, **kwargs: None)


class _Stream:
    """A stream on a CPU: work is done when it is issued, so waiting is no work."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        del args, kwargs

    def wait_stream(self, stream: Any) -> None:
        del stream

    def wait_event(self, event: Any) -> None:
        del event

    def record_event(self, event: Any = None) -> _Event:
        return event or _Event()

    def synchronize(self) -> None:
        pass


class _Event:
    """An event on a CPU has always happened."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        del args, kwargs

    def record(self, stream: Any = None) -> None:
        del stream

    def wait(self, stream: Any = None) -> None:
        del stream

    def synchronize(self) -> None:
        pass

    def query(self) -> bool:
        return True


def _streams() -> None:
    """One stream for all: `current_stream() == side_stream` holds, so no copy goes to another."""
    only = _Stream()

    class Stream(_Stream):
        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            del args, kwargs
            return only

    _replace(torch.cuda, "Stream", Stream)
    _replace(torch.cuda, "Event", _Event)
    _replace(torch.cuda, "current_stream", lambda device=None: only)
    _replace(torch.cuda, "default_stream", lambda device=None: only)
    _replace(torch.cuda, "set_stream", lambda stream: None)
    _replace(torch.cuda, "stream", lambda stream: contextlib.nullcontext())


def _random() -> None:
    """The CPU has one generator: the CUDA one of the tracker is it."""
    _replace(torch.cuda, "get_rng_state", lambda device=None: torch.get_rng_state())
    _replace(torch.cuda, "set_rng_state", lambda state, device=None: torch.set_rng_state(state))
    # torch.manual_seed itself calls manual_seed_all: seed the CPU's generator beneath both
    _replace(torch.cuda, "manual_seed", torch.default_generator.manual_seed)
    _replace(torch.cuda, "manual_seed_all", lambda seed: None)


def _factories() -> None:
    """`device="cuda"` in a factory means this device. Wrapped one by one: a TorchFunctionMode
    does the same but taxes every operator (18 % of a step) and misses those inside backward."""

    def on_cpu(factory: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(factory)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            device = kwargs.get("device")
            if device is not None and device is not _CPU and _is_cuda(device):
                kwargs["device"] = _CPU
            if kwargs.get("pin_memory"):
                kwargs["pin_memory"] = False
            return factory(*args, **kwargs)

        return wrapper

    names = (
        "zeros ones empty full tensor arange rand randn randint linspace eye as_tensor "
        "empty_like zeros_like ones_like full_like"
    )
    for name in names.split():
        _replace(torch, name, on_cpu(getattr(torch, name)))


def _tensor_methods() -> None:
    """Moves to CUDA stay; a CPU tensor names the type that the optimizer compares strings with."""
    _replace(torch.Tensor, "cuda", lambda self, *args, **kwargs: self)
    _replace(torch.nn.Module, "cuda", lambda self, device=None: self)
    _replace(torch.Tensor, "pin_memory", lambda self, device=None: self)
    _replace(torch.Tensor, "record_stream", lambda self, stream: None)

    original_to = torch.Tensor.to

    def to(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if args and not isinstance(args[0], (torch.dtype, torch.Tensor)) and _is_cuda(args[0]):
            args = (_CPU, *args[1:])
        if "device" in kwargs and _is_cuda(kwargs["device"]):
            kwargs["device"] = _CPU
        return original_to(self, *args, **kwargs)

    _replace(torch.Tensor, "to", to)

    original_type = torch.Tensor.type

    def type_(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        answer = original_type(self, *args, **kwargs)
        if isinstance(answer, str) and answer.startswith("torch.") and "cuda" not in answer:
            return answer.replace("torch.", "torch.cuda.", 1)
        return answer

    _replace(torch.Tensor, "type", type_)


def _collectives() -> None:
    """gloo: split sizes must be lists, uneven shards must be padded, there is no average."""
    all_to_all_single = dist.all_to_all_single

    def as_list(sizes: Any) -> Any:
        return sizes.tolist() if isinstance(sizes, torch.Tensor) else sizes

    def all_to_all(
        output: torch.Tensor,
        input: torch.Tensor,
        output_split_sizes: Any = None,
        input_split_sizes: Any = None,
        group: Any = None,
        async_op: bool = False,
    ) -> Any:
        output_sizes, input_sizes = as_list(output_split_sizes), as_list(input_split_sizes)
        return all_to_all_single(output, input, output_sizes, input_sizes, group, async_op)

    _replace(dist, "all_to_all_single", all_to_all)

    all_reduce = dist.all_reduce

    def all_reduce_(
        tensor: torch.Tensor, op: Any = dist.ReduceOp.SUM, group: Any = None, async_op: bool = False
    ) -> Any:
        if op != dist.ReduceOp.AVG:
            return all_reduce(tensor, op, group, async_op)
        if async_op:
            raise RuntimeError("host adapter: an asynchronous average is not supported on gloo")
        all_reduce(tensor, dist.ReduceOp.SUM, group)
        tensor.div_(dist.get_world_size(group))
        return None

    _replace(dist, "all_reduce", all_reduce_)

    all_gather = dist.all_gather

    def all_gather_(
        tensor_list: list[torch.Tensor],
        tensor: torch.Tensor,
        group: Any = None,
        async_op: bool = False,
    ) -> Any:
        rows = {part.shape[0] if part.dim() else 1 for part in tensor_list}
        if len(rows) == 1:
            return all_gather(tensor_list, tensor, group, async_op)
        most = max(rows)
        padded = tensor.new_zeros((most, *tensor.shape[1:]))
        padded[: tensor.shape[0]] = tensor
        parts = [torch.empty_like(padded) for _ in tensor_list]
        all_gather(parts, padded, group)
        for part, whole in zip(tensor_list, parts, strict=True):
            part.copy_(whole[: part.shape[0]])
        return None

    _replace(dist, "all_gather", all_gather_)

    reduce_scatter = dist.reduce_scatter

    def reduce_scatter_(
        output: torch.Tensor,
        input_list: list[torch.Tensor],
        op: Any = dist.ReduceOp.SUM,
        group: Any = None,
        async_op: bool = False,
    ) -> Any:
        if len({part.shape for part in input_list}) == 1:
            return reduce_scatter(output, input_list, op, group, async_op)
        whole = torch.cat(input_list, dim=0)
        all_reduce(whole, op, group)
        start = sum(part.shape[0] for part in input_list[: dist.get_rank(group)])
        output.copy_(whole[start : start + output.shape[0]])
        return None

    _replace(dist, "reduce_scatter", reduce_scatter_)

    def within(buffer: torch.Tensor, part: torch.Tensor) -> bool:
        start = buffer.data_ptr()
        return start <= part.data_ptr() < start + buffer.nbytes

    gather, scatter = dist.all_gather_into_tensor, dist.reduce_scatter_tensor

    def gather_(
        output: torch.Tensor, source: torch.Tensor, group: Any = None, async_op: bool = False
    ) -> Any:
        """Shards within the buffer, as ZeRO has them: each is sent from where it is."""
        if within(output, source) and output.numel() == source.numel():
            return None
        if async_op or not within(output, source):
            return gather(output, source, group, async_op)
        shards = output.view(-1).chunk(dist.get_world_size(group))
        sent = [
            dist.broadcast(shard, group=group, group_src=rank, async_op=True)
            for rank, shard in enumerate(shards)
        ]
        for work in sent:
            work.wait()
        return None

    def scatter_(
        output: torch.Tensor,
        source: torch.Tensor,
        op: Any = dist.ReduceOp.SUM,
        group: Any = None,
        async_op: bool = False,
    ) -> Any:
        """A shard within the buffer: a sum over all of it takes half the time, without copies."""
        if not within(source, output):
            return scatter(output, source, op, group, async_op)
        alone = output.numel() == source.numel()
        return None if alone else all_reduce_(source, op, group, async_op)

    _replace(dist, "all_gather_into_tensor", gather_)
    _replace(dist, "reduce_scatter_tensor", scatter_)


def _compiler() -> None:
    """megatron's `jit_fuser` is `torch.compile`: on a CPU the first step would wait for a C++
    compiler for half a minute and gain nothing. Decorators are applied at import, hence here."""

    def passthrough(model: Any = None, **kwargs: Any) -> Any:
        del kwargs
        return model if model is not None else (lambda function: function)

    original = _replace(torch, "compile", passthrough)
    try:
        import megatron.core.jit as jit

        jit.disable_jit_fuser()
        import megatron.core.fusions.fused_bias_dropout
        import megatron.core.fusions.fused_bias_geglu
        import megatron.core.fusions.fused_bias_gelu
        import megatron.core.fusions.fused_bias_swiglu
        import megatron.core.fusions.fused_cross_entropy
        import megatron.core.models.gpt  # noqa: F401
    finally:
        torch.compile = original


def _memory() -> None:
    """glibc hands large blocks back to the system at once, and a step then spends a tenth of its
    time on page faults. Keep what was freed: a training process will want it again."""
    if not hasattr(ctypes.CDLL(None), "mallopt"):
        return  # musl, macOS
    trim_threshold, mmap_threshold = -1, -3  # malloc.h
    for option in (trim_threshold, mmap_threshold):
        ctypes.CDLL(None).mallopt(option, 2**31 - 1)


def _megatron_random() -> None:
    """The RNG tracker reads and writes CUDA generator states: give it the CPU generator's."""
    import megatron.core.tensor_parallel.random as rng

    def get(device: Any = "cuda", clone: bool = False, graph_safe: bool = False) -> torch.Tensor:
        del device, clone, graph_safe
        return torch.get_rng_state()

    def set_(new_state: torch.Tensor, device: Any = -1, graph_safe: bool = False) -> None:
        del device, graph_safe
        torch.set_rng_state(new_state)

    _replace(rng, "_get_cuda_rng_state", get)
    _replace(rng, "_set_cuda_rng_state", set_)


class _Results:
    """A queue of the fork context whose `get_nowait` waits for what a writer has put: the pipe
    delivers a moment later."""

    def __init__(self) -> None:
        self._queue: Any = multiprocessing.get_context("fork").Queue()

    def put(self, item: Any) -> None:
        self._queue.put(item)

    def get_nowait(self) -> Any:
        return self._queue.get(timeout=60.0)


def _megatron_checkpoint() -> None:
    """The writer spawns a multiprocessing manager (a process a rank, a save) for one queue."""
    import megatron.core.dist_checkpointing.strategies.filesystem_async as writer

    _replace(writer, "_get_write_results_queue", functools.cache(_Results))
