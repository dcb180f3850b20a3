"""Few rows that together hold every pair of values: a greedy covering array.

Most faults of a parallel feature show as soon as it meets one certain other feature, so pairs find
nearly all that the whole product would, in a few dozen rows instead of millions.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence

Row = Mapping[str, Hashable]


def cover(
    rows: Sequence[Row], factors: Sequence[tuple[str, str]], cost: Callable[[Row], float]
) -> list[Row]:
    """A subset that holds every pair of values of `factors` that any of `rows` holds.

    Greedy: the row with most new pairs for its cost, the earliest where several tie.
    """
    bits: dict[Hashable, int] = {}

    def pairs(row: Row) -> int:
        held = ((one, other, row[one], row[other]) for one, other in factors)
        return sum(1 << bits.setdefault(pair, len(bits)) for pair in held)

    held = [pairs(row) for row in rows]
    costs = [cost(row) for row in rows]
    left = (1 << len(bits)) - 1
    chosen = []
    while left:
        best = max(range(len(rows)), key=lambda i: ((held[i] & left).bit_count() / costs[i], -i))
        chosen.append(rows[best])
        left &= ~held[best]
    return chosen
