"""What the peers of the training benchmark share: starting weights, clock, memory, report.

    python -m tools.benchmarks.train_peer PEER WORK        one peer; WORK is JSON of a `TrainWork`

It imports everything, waits for a line on stdin (so that imports overlap with the turn before),
trains, and prints JSON as its last line.
"""

from __future__ import annotations

import importlib
import json
import os
import statistics
import sys
import time
import zlib
from collections.abc import Callable
from typing import Any

import torch

from tools.benchmarks.train_work import STATE, TrainWork


def place(model: Any) -> None:
    """Write the starting weights, the same by name for every peer: normal(0, 0.02), gains 1."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.fill_(1.0)
                continue
            generator = torch.Generator(parameter.device).manual_seed(zlib.crc32(name.encode()))
            parameter.normal_(0.0, 0.02, generator=generator)


def check_room(work: TrainWork) -> None:
    """Refuse at once what cannot fit: weights, gradients and optimizer state alone."""
    if not torch.cuda.is_available():
        return
    room = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    needed = STATE * work.parameters
    if needed > room:
        raise MemoryError(
            f"weights, gradients and optimizer state alone take {needed / 1e9:.0f} GB, "
            f"the device has {room / 1e9:.0f}"
        )


def train(work: TrainWork, step: Callable[[], float]) -> dict[str, Any]:
    """Take the steps of `work`; what each of the counted ones took, and what memory they needed.

    step: one optimizer step, ending in the loss as a number.
    """
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    losses, seconds = [], []
    for _ in range(work.all_steps):
        _synchronize()
        began = time.perf_counter()
        losses.append(step())
        _synchronize()
        seconds.append(time.perf_counter() - began)
    return {
        "device": torch.cuda.get_device_name() if cuda else "CPU",
        "parameters": work.parameters,
        "tokens": work.tokens,
        "losses": losses,
        "first": seconds[0],
        "seconds": seconds[work.warmup :],
        "peak": torch.cuda.max_memory_allocated() if cuda else 0,
    }


def profile(step: Callable[[], object], rows: int = 25) -> dict[str, Any]:
    """One step under torch's profiler: its kernels by the time they take (operators on a CPU)."""
    from torch.profiler import ProfilerActivity

    cuda = torch.cuda.is_available()
    kinds = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if cuda else [])
    _synchronize()
    began = time.perf_counter()
    with torch.profiler.profile(activities=kinds) as profiler:
        step()
        _synchronize()
    wall = time.perf_counter() - began
    totals: dict[str, list[float]] = {}
    for event in profiler.events() or ():
        on_gpu = event.device_type == torch.autograd.DeviceType.CUDA
        if on_gpu != cuda or getattr(event, "is_user_annotation", False):
            continue
        took = event.time_range.elapsed_us() if cuda else event.self_cpu_time_total
        entry = totals.setdefault(event.name, [0.0, 0])
        entry[0] += took / 1e3
        entry[1] += 1
    all_ms = sum(ms for ms, _ in totals.values())
    ranked = sorted(totals.items(), key=lambda item: -item[1][0])[:rows]
    return {
        "wall_ms": wall * 1e3,
        "busy_ms": all_ms,
        "top": [
            {"name": name, "ms": ms, "calls": int(calls), "share": ms / all_ms if all_ms else 0.0}
            for name, (ms, calls) in ranked
        ],
    }


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main() -> int:
    """In the peer's process."""
    # one process needs no network, and may have none
    for library in ("GLOO", "NCCL"):
        os.environ.setdefault(f"{library}_SOCKET_IFNAME", "lo")
    name, work = sys.argv[1], TrainWork(**json.loads(sys.argv[2]))
    module = "engine" if name == "engine" else "megatron"
    peer = importlib.import_module(f"tools.benchmarks.train_{module}")
    peer.ready(name)
    sys.stdin.readline()
    check_room(work)
    found = peer.run(name, work)
    ms = statistics.median(found["seconds"]) * 1e3
    print(f"{name}: {ms:.1f} ms a step", file=sys.stderr)
    print(json.dumps(found), flush=True)
    return 0


if __name__ == "__main__":
    # as the module that peers import it under
    sys.exit(importlib.import_module("tools.benchmarks.train_peer").main())
