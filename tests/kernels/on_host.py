"""CUDA sources compiled by g++: what can be tested of a kernel without a GPU."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
SOURCES = HERE.parents[1] / "kernels" / "csrc"


def compile_on_host(source: str, folder: Path) -> ctypes.CDLL:
    """`source`, C++20 with cuda_on_host.h and kernels/csrc in reach, as a library. Skips without
    g++."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is missing")
    file = folder / "kernel.cpp"
    file.write_text(source)
    library = folder / "kernel.so"
    flags = [
        "-O1",
        "-U_FORTIFY_SOURCE",
        "-std=c++20",
        "-shared",
        "-fPIC",
    ]  # a jump to another stack
    flags += [f"-I{HERE}", f"-I{SOURCES}"]
    ended = subprocess.run(
        [compiler, *flags, str(file), "-o", str(library)], capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    return ctypes.CDLL(str(library))


def pointer(tensor: torch.Tensor | None) -> ctypes.c_void_p:
    """Where a contiguous tensor's data is; a null pointer for None."""
    if tensor is None:
        return ctypes.c_void_p(None)
    assert tensor.is_contiguous()
    return ctypes.c_void_p(tensor.data_ptr())
