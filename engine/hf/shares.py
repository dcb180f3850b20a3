"""What a rank holds of which tensor, in the names that the tables of families use.

Names and places come from megatron-core's sharded state dict, as those of checkpoints do. There,
layers of one kind are one tensor with a leading dim, and so are experts; here each has its name:
`decoder.layers.3.mlp.experts.5.linear_fc1.weight`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.dist_checkpointing.mapping import (
    ShardedTensor,
    ShardedTensorFactory,
    is_main_replica,
)

from trivium.engine.mesh import Mesh

_STACK = re.compile(r"decoder\.layers\.(?!\d)")
_EXPERTS = ".experts.experts."


@dataclass(frozen=True)
class Share:
    """Rows and columns of a tensor that a rank holds. data is the parameter's own memory.

    main: of the ranks with a copy, exactly one has it so.
    """

    name: str
    row: int
    column: int
    data: torch.Tensor
    main: bool


def shares(chunks: Sequence[Any], mesh: Mesh) -> Iterator[Share]:
    """Every tensor of this rank's model chunks; copies of tied weights come again."""
    metadata = {"dp_cp_group": mesh.groups.dp_cp}
    for chunk in chunks:
        for value in chunk.sharded_state_dict(prefix="", metadata=metadata).values():
            for shard in _parts(value):
                yield _share(shard)


def _parts(value: Any) -> Iterator[ShardedTensor]:
    """A tensor, or the tensors that a factory (gated layers) splits one into."""
    if isinstance(value, ShardedTensorFactory):
        built = value.build()
        for part in built.values() if isinstance(built, dict) else built:
            if isinstance(part, ShardedTensor):
                yield part
    elif isinstance(value, ShardedTensor):
        yield value


def _share(shard: ShardedTensor) -> Share:
    lead = len(shard.global_shape) - shard.data.dim()
    name = unstacked(shard.key, shard.global_offset[:lead])
    row, *column = shard.global_offset[lead:]
    data = shard.data.detach()
    main = is_main_replica(shard.replica_id)
    return Share(name, row, column[0] if column else 0, data, main)


def unstacked(key: str, leading: Sequence[int]) -> str:
    """The name of one layer's, or expert's, part of the tensor `key` of a checkpoint."""
    indices = list(leading)
    if _STACK.match(key):
        key = _STACK.sub(f"decoder.layers.{indices.pop(0)}.", key, count=1)
    if _EXPERTS in key:
        key = key.replace(_EXPERTS, f".experts.{indices.pop(0)}.")
    if indices:
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
