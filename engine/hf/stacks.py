"""Names of tensors in a checkpoint, and of the layers and experts that they stack.

In a checkpoint, layers of one kind are one tensor with a leading dim, and so are experts; tables
of families name each: `decoder.layers.3.mlp.experts.5.linear_fc1.weight`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_STACK = re.compile(r"decoder\.layers\.(?!\d)")
_EXPERTS = ".experts.experts."


def unstacked(key: str, leading: Sequence[int]) -> str:
    """The name of one layer's, or expert's, part of the tensor `key` of a checkpoint."""
    indices = list(leading)
    wanted = bool(_STACK.match(key)) + (_EXPERTS in key)
    if wanted == len(indices) and _STACK.match(key):
        key = _STACK.sub(f"decoder.layers.{indices.pop(0)}.", key, count=1)
    if wanted == len(leading) and _EXPERTS in key:
        key = key.replace(_EXPERTS, f".experts.{indices.pop(0)}.")
    if wanted != len(leading):
        raise ValueError(f"{key}: leading dims {list(leading)} of a tensor are not understood")
    return key


def stacked(
    name: str, layers: int | None, experts: int
) -> tuple[str, tuple[int, ...], tuple[int, ...]]:
    """The inverse: (key, its leading sizes, index in them) of a tensor in a checkpoint.

    layers: of the decoder, where they are one tensor; None where each is its own.
    """
    sizes: list[int] = []
    at: list[int] = []
    found = re.match(r"decoder\.layers\.(\d+)\.", name)
    if found and layers is not None:
        name = f"decoder.layers.{name[found.end() :]}"
        sizes.append(layers)
        at.append(int(found[1]))
    expert = re.search(r"\.experts\.(\d+)\.", name)
    if expert:
        name = name[: expert.start()] + _EXPERTS + name[expert.end() :]
        sizes.append(experts)
        at.append(int(expert[1]))
    return name, tuple(sizes), tuple(at)
