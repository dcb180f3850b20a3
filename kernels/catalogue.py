"""All operators: importing a module of this folder makes its operators; this imports each once."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

from trivium.kernels import registry

_NOT_OPERATORS = {"build", "catalogue", "library", "registry"}


def operators() -> dict[str, registry.Operator]:
    """Every operator by name."""
    for file in sorted(Path(__file__).parent.glob("*.py")):
        if file.stem not in _NOT_OPERATORS:
            import_module(f"trivium.kernels.{file.stem}")
    return registry.OPERATORS


def switch_off(names: Iterable[str]) -> None:
    """Run the named operators in plain torch on CUDA too. Raises ValueError for an unknown name."""
    operators()
    registry.switch_off(names)
