"""Operators under `torch.ops.trivium`: schema, plain-torch reference, and CUDA kernel where built.

The reference is registered for every device, so it is the CPU path and what runs where no kernel
is. The compiled library (`library.py`) registers its kernels for CUDA over it. So there is one way
to call an operator, and nothing to decide while it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

NAMESPACE = "trivium"
OPERATORS: dict[str, Operator] = {}  # by name, in the order they were made

_definitions = torch.library.Library(NAMESPACE, "FRAGMENT")
_overrides: dict[str, torch.library.Library] = {}
_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass
class Operator:
    """What a user switches and sees as one: a forward and its backward, say.

    name: as `kernels.off` and `trivium kernels` have it. summary: half a line for that table.
    """

    name: str
    summary: str
    references: dict[str, Callable[..., Any]] = field(default_factory=dict)  # by torch name

    def __post_init__(self) -> None:
        if self.name in OPERATORS:
            raise ValueError(f"operator {self.name!r} exists already")
        OPERATORS[self.name] = self

    def define(self, schema: str) -> Callable[[_Function], _Function]:
        """Decorate a reference: `@NORM.define("rms_norm(Tensor x, ...) -> Tensor")`.

        The function becomes `torch.ops.trivium.rms_norm` on every device without a kernel. It must
        not return its arguments or views of them. Give it a fake with `fake`.
        """
        name = schema.partition("(")[0]

        def register(reference: _Function) -> _Function:
            _definitions.define(schema, tags=(torch.Tag.needs_fixed_stride_order,))
            _definitions.impl(name, reference, "CompositeExplicitAutograd")
            self.references[name] = reference
            return reference

        return register

    def fake(self, name: str) -> Callable[[_Function], _Function]:
        """Decorate what gives the shapes and dtypes of torch operator `name`, without data."""

        def register(function: _Function) -> _Function:
            torch.library.register_fake(f"{NAMESPACE}::{name}", function, lib=_definitions)
            return function

        return register

    def autograd(self, name: str, backward: Callable[..., Any], setup: Callable[..., None]) -> None:
        """Make torch operator `name` differentiable; see `torch.library.register_autograd`."""
        torch.library.register_autograd(
            f"{NAMESPACE}::{name}", backward, setup_context=setup, lib=_definitions
        )

    @property
    def compiled(self) -> bool:
        """Has the loaded library a kernel for each of its torch operators?"""
        has = torch._C._dispatch_has_kernel_for_dispatch_key
        names = [f"{NAMESPACE}::{name}" for name in self.references]
        return bool(names) and all(has(name, "CUDA") for name in names)

    @property
    def path(self) -> str:
        """What runs for CUDA tensors: `cuda` (the kernel) or `torch` (the reference)."""
        return "cuda" if self.compiled and self.name not in _overrides else "torch"


def switch_off(names: Iterable[str]) -> None:
    """Run the reference of the named operators on CUDA as well; all others as they come."""
    wanted = set(names)
    unknown = sorted(wanted - OPERATORS.keys())
    if unknown:
        raise ValueError(f"no operator {unknown[0]!r}; known: {', '.join(OPERATORS)}")
    for name in [name for name in _overrides if name not in wanted]:
        _overrides.pop(name)._destroy()
    for name in wanted - _overrides.keys():
        if not OPERATORS[name].compiled:
            continue
        library = torch.library.Library(NAMESPACE, "IMPL")
        for torch_name, reference in OPERATORS[name].references.items():
            library.impl(torch_name, reference, "CUDA", allow_override=True)
        _overrides[name] = library
