"""What the tests of the data pipeline share: small shards whose every token is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from trivium.data_pipeline.shards import Shard, ShardWriter

MakeShard = Callable[..., Path]


@pytest.fixture
def make_shard(tmp_path: Path) -> MakeShard:
    """``make_shard(name, documents)`` writes a shard and gives its prefix."""

    def make(name: str, documents: Sequence[Sequence[int]], vocab_size: int = 50_000) -> Path:
        with ShardWriter(tmp_path / name, vocab_size) as writer:
            for document in documents:
                writer.add_document(document)
        return Shard(tmp_path / name).prefix

    return make


@pytest.fixture
def numbered(make_shard: MakeShard) -> Path:
    """300 documents of 1 to 80 tokens; every token of the shard is another one."""
    lengths = np.random.default_rng(5).integers(1, 81, 300)
    ends = np.cumsum(lengths)
    return make_shard(
        "numbered", [range(end - length, end) for end, length in zip(ends, lengths, strict=True)]
    )
