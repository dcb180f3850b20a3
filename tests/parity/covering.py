"""Few rows that together hold every pair of values: a greedy covering array.

Most faults of a parallel feature show as soon as it meets one certain other feature, so pairs find
nearly all that the whole product would, in a few dozen rows instead of millions.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Mapping, Sequence

Row = Mapping[str, Hashable]


def cover(
    rows: Sequence[Row],
    cost: Callable[[Row], float],
    wanted: Callable[[str, str], bool] = lambda one, other: True,
) -> list[Row]:
    """A subset that holds every wanted pair that any of `rows` holds, cheap rows preferred.

    wanted: of two factors, in alphabetical order, whether pairs of their values count. Greedy: the
    row with most new pairs for its cost, the earliest where several tie.
    """
    bits: dict[Hashable, int] = {}

    def pairs(row: Row) -> int:
        combined = itertools.combinations(sorted(row.items()), 2)
        return sum(
            1 << bits.setdefault(pair, len(bits)) for pair in combined if wanted(*dict(pair))
        )

    held = [pairs(row) for row in rows]
    costs = [cost(row) for row in rows]
    left = (1 << len(bits)) - 1
    chosen = []
    while left:
        best = max(range(len(rows)), key=lambda i: ((held[i] & left).bit_count() / costs[i], -i))
        chosen.append(rows[best])
        left &= ~held[best]
    return chosen
