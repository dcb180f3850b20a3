"""One number for how much of a text is running text: which of near-duplicates to keep."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .seed_rules import SeedRules

_DENSE = 0.3  # of words are stop words in running text; more is no better
_DEFAULTS = SeedRules()


def quality(documents: pa.Table) -> NDArray[np.float64]:
    """0 to 1, [documents]: the product of three shares, each as `SeedRules` measures it.

    Letters and numbers among all characters but white space; different lines among lines; stop
    words among words, where `_DENSE` counts as all.
    """
    measures = _DEFAULTS.measure(documents)
    running = np.minimum(measures.stop_words / _DENSE, 1.0)
    return measures.alphanumeric * measures.unique_lines * running
