"""What a rank holds of which tensor, in the names that the tables of families use.

Names and places come from megatron-core's sharded state dict, as those of checkpoints do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.dist_checkpointing.mapping import (
    ShardedTensor,
    ShardedTensorFactory,
    is_main_replica,
)

from trivium.engine.hf.stacks import unstacked
from trivium.engine.mesh import Mesh


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
