"""Cases that a test can measure, with contestants that fail in every way."""

from __future__ import annotations

import os
import time
from typing import Any

import torch

from tools.benchmarks.kernel_case import Case


def cases(tiny: bool) -> list[Case]:
    size = 64 if tiny else 512

    def inputs() -> tuple[torch.Tensor, torch.Tensor]:
        return torch.randn(size, size), torch.randn(size, size)

    def refuse(a: Any, b: Any) -> Any:
        raise ValueError(f"{tuple(a.shape)} is refused\nand more is said")

    def fall(a: Any, b: Any) -> Any:
        os._exit(9)

    def hang(a: Any, b: Any) -> Any:
        time.sleep(60)

    def lost() -> tuple[Any, ...]:
        raise MemoryError("no room")

    bytes_, flops = 3 * size**2 * 4, 2 * size**3
    return [
        Case(
            "product",
            inputs,
            {"ours": torch.mm, "refuse": refuse, "fall": fall, "torch": lambda a, b: a @ b},
            bytes_,
            flops,
            "as fast as torch",
        ),
        Case("lost", lost, {"ours": torch.mm}),
        Case("ours hangs", inputs, {"ours": hang, "torch": torch.add}, bytes_),
    ]
