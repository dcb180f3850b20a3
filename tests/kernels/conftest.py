"""Shared by tests of kernels: the library, compiled once where nvcc is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from trivium.kernels import build

CACHE = Path(__file__).parents[2] / "build" / "kernels"  # by content: a second run compiles nothing


@dataclass(frozen=True)
class Built:
    """The library for one architecture, and what ptxas said of its kernels."""

    path: Path
    usages: list[build.Usage]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Every kernel compiled for Hopper alone: one architecture is what time allows."""
    if build.find_nvcc() is None:
        pytest.skip("nvcc is not here: nothing is compiled")
    path = tmp_path_factory.mktemp("kernels") / build.FILE
    return Built(path, build.build(path, ["sm_90a"], cache=CACHE))
