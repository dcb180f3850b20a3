"""A model made ready to write, and back: evaluation mode, whole rows on every rank, lean products.

In training, a row is split over tp (sequence parallelism) and cp. One token cannot be split, so
both are off while the model writes. On a CPU layers take a shorter way (`lean_layer`), and the
weights of linear layers are packed once for oneDNN's products, which for a few rows are quicker
than those on plain weights. An update of the weights is seen by whoever enters the context behind
it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.models.common.embeddings import RotaryEmbedding
from megatron.core.tensor_parallel import (
    ColumnParallelLinear,
    RowParallelLinear,
    gather_from_tensor_model_parallel_region,
    reduce_from_tensor_model_parallel_region,
)

from trivium.engine.generation import lean_layer
from trivium.engine.model.attention import CoreAttention

_OFF = ("sequence_parallel", "scatter_to_sequence_parallel", "reduce_scatter_embeddings")


@contextmanager
def writing(chunks: Sequence[Any]) -> Iterator[None]:
    """`chunks` (unwrapped) without gradients, dropout, or parallelism within a row."""
    changed: list[tuple[Any, str, Any]] = []
    configs = {id(chunk.config): chunk.config for chunk in chunks}
    modules = [module for chunk in chunks for module in chunk.modules()]
    rotary = [module for module in modules if isinstance(module, RotaryEmbedding)]
    modes = [chunk.training for chunk in chunks]
    lean = {module: _lean(module) for module in modules if _replaceable(module)}
    lean |= {module: found for module in modules if (found := lean_layer.lean(module)) is not None}

    def change(owner: Any, name: str, value: Any) -> None:
        changed.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)

    for owner in [*modules, *configs.values()]:
        for name in _OFF:
            if getattr(owner, name, False) is True:
                change(owner, name, False)
        if isinstance(owner, CoreAttention):
            change(owner, "context", None)
    for config in configs.values():
        change(config, "context_parallel_size", 1)
    for module in rotary:
        change(module, "cp_group", None)
        module.forward.cache_clear()  # angles of a rank's part of a row
    for module, replacement in lean.items():
        module.forward = replacement
    for chunk in chunks:
        chunk.eval()
        chunk.set_input_tensor(None)
    try:
        with torch.inference_mode():
            yield
    finally:
        for module in lean:
            del module.forward
        for chunk, mode in zip(chunks, modes, strict=True):
            chunk.train(mode)
            chunk.set_input_tensor(None)
        for owner, name, value in changed:
            setattr(owner, name, value)
        for module in rotary:
            module.forward.cache_clear()  # made without gradients


# --- Linear layers --------------------------------------------------------------------------------


def _replaceable(module: Any) -> bool:
    """A plain linear layer of megatron-core's (no subclass), whose class defines its forward."""
    return type(module) in (ColumnParallelLinear, RowParallelLinear)


def _lean(module: Any) -> Any:
    """The module's forward without what only gradients need."""
    return _column(module) if type(module) is ColumnParallelLinear else _row(module)


def _column(module: Any) -> Any:
    group, product = module.tp_group, _Product()

    def forward(
        x: torch.Tensor,
        weight: torch.Tensor | None = None,
        runtime_gather_output: bool | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        out = product(x, module.weight if weight is None else weight)
        if module.bias is not None and not module.skip_bias_add:
            out = out + module.bias
        gather = module.gather_output if runtime_gather_output is None else runtime_gather_output
        if gather:
            out = gather_from_tensor_model_parallel_region(out, group=group)
        return out, module.bias if module.skip_bias_add else None

    return forward


def _row(module: Any) -> Any:
    group, product = module.tp_group, _Product()
    reduces = group.size() > 1 and not module.explicit_expert_comm

    def forward(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        out = product(x, module.weight)
        if reduces:
            out = reduce_from_tensor_model_parallel_region(out, group=group)
        if module.skip_bias_add:
            return out, module.bias
        return out if module.bias is None else out + module.bias, None

    return forward


class _Product:
    """x W^T, by packed weights where that is faster."""

    def __init__(self) -> None:
        self._stamp: Any = None
        self._packed: torch.Tensor | None = None

    def __call__(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        if weight.is_cuda or weight.dtype not in (torch.float32, torch.bfloat16) or not _PACKS:
            return F.linear(x, weight)
        stamp = (weight.data_ptr(), weight._version)
        if self._stamp != stamp:
            self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), _ROWS)
            self._stamp = stamp
        return torch.ops.mkldnn._linear_pointwise(x, self._packed, None, "none", [], "")


_ROWS = 8  # what weights are packed for; others do as well


def _can_pack() -> bool:
    """Has this build of torch the products on packed weights?"""
    try:
        weight = torch.ones(16, 16)
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)
        out = torch.ops.mkldnn._linear_pointwise(weight[:1], packed, None, "none", [], "")
        return bool((out == 16).all())
    except (AttributeError, RuntimeError):
        return False


_PACKS = _can_pack()
