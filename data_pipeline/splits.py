"""Which documents are for training, which for validation and test: by their hashes alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .content import Hashes

SPLITS = ("train", "validation", "test")


def split_of(hashes: Hashes, fractions: tuple[float, float, float]) -> NDArray[np.int8]:
    """int8 [D]: 0 train, 1 validation, 2 test, of documents by their hashes."""
    total = sum(fractions)
    inner = np.cumsum(fractions)[:2] / total * 2.0**64
    edges = np.array([min(int(edge), 2**64 - 1) for edge in inner], np.uint64)
    found = (hashes >= edges[0]).astype(np.int8)
    found += hashes >= edges[1]
    # a fraction of 0 leaves an empty interval; at the very end, rounding could fill it
    last = max(i for i, fraction in enumerate(fractions) if fraction > 0)
    return np.minimum(found, np.int8(last))
