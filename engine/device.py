"""Which device a process runs on, and what it says about itself.

The choice is made once, here: CUDA with NCCL when there is a GPU, else CPU with gloo through
`host`. `TRIVIUM_DEVICE=cpu` overrules it.
"""

from __future__ import annotations

import os
import resource
import warnings
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Device:
    """The device of this process."""

    torch_device: torch.device
    backend: str  # of torch.distributed

    @property
    def is_cuda(self) -> bool:
        return self.torch_device.type == "cuda"

    @property
    def name(self) -> str:
        """The device in words, as reports print it."""
        if self.is_cuda:
            return torch.cuda.get_device_name(self.torch_device)
        return f"CPU, {torch.get_num_threads()} threads"

    def peak_memory(self) -> int:
        """Largest memory of this process so far, in bytes: allocated on CUDA, resident on a CPU."""
        if self.is_cuda:
            return torch.cuda.max_memory_allocated(self.torch_device)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def synchronize(self) -> None:
        """Wait for the device: clocks are read after this."""
        if self.is_cuda:
            torch.cuda.synchronize(self.torch_device)


def prepare(local_rank: int = 0, local_world_size: int = 1) -> Device:
    """Choose this process's device and make megatron-core importable on it. Call once, first."""
    # megatron-core and torch warn of each other's deprecations, on every rank
    warnings.filterwarnings("ignore", module=r"(megatron|torch)\b")
    if torch.cuda.is_available() and os.environ.get("TRIVIUM_DEVICE") != "cpu":
        torch.cuda.set_device(local_rank)
        device = Device(torch.device("cuda", local_rank), "nccl")
    else:
        from trivium.engine import host

        if "OMP_NUM_THREADS" not in os.environ or local_world_size > 1:
            cores = len(os.sched_getaffinity(0))
            torch.set_num_threads(max(1, cores // local_world_size))
        host.install()
        device = Device(torch.device("cpu"), "gloo")
    from trivium.engine import fixes

    fixes.apply()
    return device
