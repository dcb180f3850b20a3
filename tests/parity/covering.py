"""Few rows that together hold every pair of values: a greedy covering array.

Most faults of a parallel feature show as soon as it meets one certain other feature, so pairs find
nearly all that the whole product would, in a few dozen rows instead of millions.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

Row = Mapping[str, Hashable]


def pairs(row: Row) -> Iterator[tuple[Hashable, Hashable]]:
    """Every pair of (factor, value) that `row` holds."""
    return itertools.combinations(sorted(row.items()), 2)


def cover(rows: Sequence[Row], cost: Callable[[Row], float]) -> list[Row]:
    """A subset that holds every pair that any of `rows` holds, cheap rows preferred.

    Greedy: the row with most new pairs for its cost, the earliest where several tie.
    """
    bits: dict[tuple[Hashable, Hashable], int] = {}
    held = [sum(1 << bits.setdefault(pair, len(bits)) for pair in pairs(row)) for row in rows]
    costs = [cost(row) for row in rows]
    left = (1 << len(bits)) - 1
    chosen = []
    while left:
        best = max(range(len(rows)), key=lambda i: ((held[i] & left).bit_count() / costs[i], -i))
        chosen.append(rows[best])
        left &= ~held[best]
    return chosen
