"""What every peer trains: sizes, initial weights, tokens; and how its steps are timed.

All peers start from the same weights and see the same tokens, so their losses must agree: that is
the proof that they do the same work.
"""

from __future__ import annotations

import json
import resource
import time
import zlib
from dataclasses import dataclass
from itertools import pairwise

import torch


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A Llama of 25.0M parameters, and the optimizer steps that are taken with it.

    A global batch is `world` ranks x `micro_batches` x `micro_batch` rows of `sequence` tokens.
    """

    vocab: int = 8192
    hidden: int = 384
    layers: int = 10
    heads: int = 6
    groups: int = 2  # key/value heads
    ffn: int = 1280
    sequence: int = 512
    micro_batch: int = 4
    micro_batches: int = 2
    norm_epsilon: float = 1e-5
    rope_theta: float = 10000.0
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.1  # of matrices; norm gains are not decayed
    clip: float = 1.0
    threads: int = 1
    warmup: int = 1  # steps before the clock counts
    steps: int = 3  # steps that count
    rank: int = 0
    world: int = 1
    store: str = ""  # rendezvous file where world > 1

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @property
    def all_steps(self) -> int:
        return self.warmup + self.steps

    @property
    def rows(self) -> int:
        """Sequences of one global batch."""
        return self.world * self.micro_batches * self.micro_batch

    @property
    def tokens(self) -> int:
        """Tokens of one global batch."""
        return self.rows * self.sequence

    def weight(self, name: str, rows: int, columns: int) -> torch.Tensor:
        """The initial matrix of that name, normal with standard deviation 0.02."""
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        return torch.randn(rows, columns, generator=generator) * 0.02

    def qkv(self, layer: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Initial query, key and value matrices, [heads * head_dim, hidden] each."""
        wide, narrow = self.heads * self.head_dim, self.groups * self.head_dim
        sizes = {"q": wide, "k": narrow, "v": narrow}
        q, k, v = (self.weight(f"{layer}.{n}", size, self.hidden) for n, size in sizes.items())
        return q, k, v

    def batch(self, step: int) -> torch.Tensor:
        """Tokens of a global batch, int64 [rows, sequence + 1]; small ids are more likely."""
        generator = torch.Generator().manual_seed(step)
        uniform = torch.rand(self.rows, self.sequence + 1, generator=generator)
        return (uniform.pow(3) * self.vocab).long()

    def micro_batch_rows(self, step: int) -> list[torch.Tensor]:
        """This rank's micro-batches of a global batch, [micro_batch, sequence + 1] each."""
        rows = self.batch(step).split(self.micro_batch)
        return list(rows[self.rank :: self.world])


class Stopwatch:
    """Wall and user-CPU seconds of every step, and peak resident memory."""

    def __init__(self) -> None:
        self.imported = _peak()
        self.marks: list[tuple[float, float]] = []

    def mark(self) -> None:
        """Call before the first step and after each."""
        self.marks.append((time.perf_counter(), time.process_time()))

    def report(self, work: Workload, parameters: int, mean_loss: float) -> None:
        """Print one line of JSON, the last of the process. Warm-up steps are left out of times."""
        after = self.marks[work.warmup :]
        assert len(after) == work.steps + 1
        pairs = list(pairwise(after))
        answer = {
            "parameters": parameters,
            "mean_loss": mean_loss,  # over all steps, warm-up included
            "tokens": work.tokens,
            "wall": [later[0] - sooner[0] for sooner, later in pairs],
            "cpu": [later[1] - sooner[1] for sooner, later in pairs],
            "peak": _peak(),
            "imported": self.imported,
            "torch": torch.__version__,
        }
        print(json.dumps(answer), flush=True)


def _peak() -> int:
    """Largest resident size of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
