"""The same weights and tokens for every peer, and how its steps are timed.

Peers that start alike and read alike must report the same loss: that is the proof that they do the
same work.
"""

from __future__ import annotations

import itertools
import json
import resource
import time
import zlib

import torch

from tools.benchmarks.workload import Workload


def weight(name: str, rows: int, columns: int) -> torch.Tensor:
    """The initial matrix of that name, normal with standard deviation 0.02."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return torch.randn(rows, columns, generator=generator) * 0.02


def qkv(work: Workload, layer: int) -> list[torch.Tensor]:
    """Initial query, key and value matrices of a layer, [heads * head_dim, hidden] each."""
    heads = {"q": work.heads, "k": work.groups, "v": work.groups}
    return [
        weight(f"{layer}.{name}", count * work.head_dim, work.hidden)
        for name, count in heads.items()
    ]


def global_batch(work: Workload, step: int) -> torch.Tensor:
    """Tokens of a step, int64 [rows, sequence + 1]; small ids are more likely."""
    generator = torch.Generator().manual_seed(step)
    uniform = torch.rand(work.rows, work.sequence + 1, generator=generator)
    return (uniform.pow(3) * work.vocab).long()


def micro_batches(work: Workload, step: int) -> list[torch.Tensor]:
    """This rank's micro-batches of a step, [micro_batch, sequence + 1] each."""
    rows = global_batch(work, step).split(work.micro_batch)
    return list(rows[work.rank :: work.world])


class Stopwatch:
    """Wall and CPU seconds of every step, and peak resident memory."""

    def __init__(self) -> None:
        self.imported = _peak()  # made first: what the peer's imports alone cost
        self.marks: list[tuple[float, float]] = []

    def mark(self) -> None:
        """Call before the first step and after each."""
        self.marks.append((time.perf_counter(), time.process_time()))

    def report(self, work: Workload, parameters: int, loss: float) -> None:
        """Print a line of JSON, the last of the process. Warm-up steps are not among the times.

        loss: mean over all steps, warm-up included.
        """
        counted = self.marks[work.warmup :]
        assert len(counted) == work.steps + 1
        pairs = list(itertools.pairwise(counted))
        answer = {
            "parameters": parameters,
            "loss": loss,
            "tokens": work.tokens,
            "wall": [after[0] - before[0] for before, after in pairs],
            "cpu": [after[1] - before[1] for before, after in pairs],
            "peak": _peak(),
            "imported": self.imported,
        }
        print(json.dumps(answer), flush=True)


def _peak() -> int:
    """Largest resident size of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
