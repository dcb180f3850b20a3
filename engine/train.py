"""Where a rank begins: choose the device, join the world, run, and leave together.

Nothing that imports megatron-core may be imported before the device is chosen: on a CPU it is
adapted first. So this file is the door, and `run` the house.
"""

from __future__ import annotations

import datetime
import os

import torch.distributed as dist

from trivium.engine import device
from trivium.engine.schema import RunConfig


def main(config: RunConfig) -> int:
    """Train as `config` (resolved, checked) says, on this rank; gives the exit status.

    Raises AgreedError, on every rank, for what the user can put right, and InputError for what only
    this rank has seen. Expects torchrun's environment, or none for a world of one.
    """
    place = device.prepare(
        int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    )
    _join(place.backend, config.parallel.timeout_minutes)
    from trivium.engine.run import run

    try:
        run(config, place)
        return 0
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _join(backend: str, timeout_minutes: float) -> None:
    """Join torchrun's world, or make a world of one."""
    timeout = datetime.timedelta(minutes=timeout_minutes)
    if "RANK" in os.environ:
        dist.init_process_group(backend, timeout=timeout)
    else:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
