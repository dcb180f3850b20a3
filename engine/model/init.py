"""Initial weights as a function of (seed, parameter's global name, global index), and nothing else.

Every element of every parameter is drawn from its own counter, so a rank can fill just its shard:
the same seed is the same model under every layout, on one rank or a thousand. Where an element lies
in the global tensor is read from megatron-core's sharded state dict, the same description that
checkpoints are written by, so that names and offsets have one source.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory

from trivium.engine.mesh import Mesh
from trivium.engine.schema import ModelConfig

# splitmix64 (Steele, Lea, Flood 2014), as signed 64-bit integers, which wrap
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_MIX1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX2 = 0x94D049BB133111EB - 2**64
_CHUNK = 1 << 20  # elements drawn at a time: bounds the temporaries


def initialize(chunks: Sequence[Any], seed: int, model: ModelConfig, mesh: Mesh) -> None:
    """Fill the parameters of `chunks` in place.

    Norm gains are 1 (0 where zero-centred), biases 0; matrices are normal with `model.init_std`,
    divided by sqrt(2 x layers) for those that write to the residual stream (GPT-2).
    """
    residual_std = model.init_std / math.sqrt(2 * model.num_layers)
    with torch.no_grad():
        for shard in _shards(chunks, {"dp_cp_group": mesh.groups.dp_cp}):
            name = shard.key
            if name.endswith("bias"):
                shard.data.zero_()
            elif "norm" in name.rsplit(".", 2)[-2]:
                shard.data.fill_(0.0 if model.norm_zero_centered else 1.0)
            else:
                residual = name.endswith(("linear_proj.weight", "linear_fc2.weight"))
                _fill_normal(shard, seed, residual_std if residual else model.init_std)


def _shards(chunks: Sequence[Any], metadata: dict[str, Any]) -> Iterable[ShardedTensor]:
    """The shard of every trainable parameter, with factories (gated layers) taken apart."""
    for chunk in chunks:
        parameters = {p.data_ptr() for p in chunk.parameters()}
        for value in chunk.sharded_state_dict(prefix="", metadata=metadata).values():
            if isinstance(value, ShardedTensorFactory):
                built = value.build()
                parts = built.values() if isinstance(built, dict) else built
                yield from (part for part in parts if isinstance(part, ShardedTensor))
            elif isinstance(value, ShardedTensor) and value.data.data_ptr() in parameters:
                yield value


def _fill_normal(shard: ShardedTensor, seed: int, std: float) -> None:
    """Normal(0, std) at the global indices of `shard`, written into its data."""
    key = _key(seed, shard.key)
    local_shape = shard.data.shape
    offset = shard.global_offset
    # leading axes (layer, expert) that only number the shards: one index each
    lead = len(shard.global_shape) - len(local_shape)
    base = 0
    for size, start in zip(shard.global_shape[:lead], offset[:lead], strict=True):
        base = base * size + start
    rows, columns = local_shape[0], math.prod(local_shape[1:])
    width = math.prod(shard.global_shape[lead + 1 :])
    start_row, start_column = offset[lead], sum(offset[lead + 1 :])
    flat = shard.data.view(rows, columns)
    device = flat.device
    column = torch.arange(columns, device=device) + start_column
    step = max(1, _CHUNK // columns)
    for begin in range(0, rows, step):
        row = torch.arange(begin, min(begin + step, rows), device=device) + start_row
        row = row + base * shard.global_shape[lead]
        index = row.unsqueeze(1) * width + column
        flat[begin : begin + step] = (standard_normal(key, index) * std).to(flat.dtype)


def _key(seed: int, name: str) -> int:
    """A 64-bit stream of its own for each (seed, name)."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return int.from_bytes(digest[:8], "little", signed=True)


def standard_normal(key: int, index: torch.Tensor) -> torch.Tensor:
    """float64 normal deviates of the int64 counters `index` in stream `key` (Box-Muller)."""
    first = _uniform(key, index * 2)
    second = _uniform(key, index * 2 + 1)
    return torch.sqrt(-2.0 * torch.log(first)) * torch.cos((2.0 * math.pi) * second)


def _uniform(key: int, counter: torch.Tensor) -> torch.Tensor:
    """float64 in (0, 1]: splitmix64 of the counter, its upper 53 bits plus one."""
    z = counter * _GOLDEN + key
    z = (z ^ _shift(z, 30)) * _MIX1
    z = (z ^ _shift(z, 27)) * _MIX2
    z = z ^ _shift(z, 31)
    return (_shift(z, 11) + 1).to(torch.float64) * (1.0 / 2**53)


def _shift(z: torch.Tensor, bits: int) -> torch.Tensor:
    """Logical right shift of int64, which torch shifts arithmetically."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
