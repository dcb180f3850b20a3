"""The compiled library of CUDA kernels: where it is, whether it loads, and if not, why."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import torch

FILE = "libtrivium_kernels.so"
VARIABLE = "TRIVIUM_KERNELS"  # a path to the library, or `off`


@functools.cache
def load() -> str | None:
    """Load the library into this process, once. None if it is there, else the reason in words."""
    path, reason = find()
    if path is None:
        return reason
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        return f"{path} does not load: {error}"
    return None


def find() -> tuple[Path | None, str]:
    """The library's path, or None and why: named by TRIVIUM_KERNELS, else beside this file."""
    named = os.environ.get(VARIABLE)
    if named == "off":
        return None, f"{VARIABLE}=off"
    path = Path(named) if named else Path(__file__).parent / FILE
    if path.is_file():
        return path, ""
    if named:
        return None, f"{VARIABLE}={named}: no such file"
    return None, "the kernels are not built: run `python -m trivium.kernels.build` where nvcc is"
