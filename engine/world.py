"""The door of every process that runs a model: choose the device, join the world, leave it again.

Nothing that imports megatron-core may be imported before the device is chosen: on a CPU it is
adapted first. So this file knows neither, and whoever goes through it imports the rest behind it.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist

from trivium.engine import device
from trivium.engine.device import Device


@contextmanager
def world(timeout_minutes: float) -> Iterator[Device]:
    """This process in torchrun's world, or in a world of one, with its device."""
    place = device.prepare(
        int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    )
    timeout = datetime.timedelta(minutes=timeout_minutes)
    if "RANK" in os.environ:
        dist.init_process_group(place.backend, timeout=timeout)
    else:
        store = dist.HashStore()
        dist.init_process_group(place.backend, store=store, rank=0, world_size=1)
    try:
        yield place
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
