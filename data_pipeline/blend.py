"""Which source sample i of a blend comes from: closed form, at any i, with no table to build.

The sources are the leaves of a binary tree. A node that has handed out n samples has given
``floor(n p + 1/2)`` of them to its left child, p being the left child's share of the node's
weight. That count grows by 0 or 1 at each n, so it says both where sample n goes and which one of
the child's samples it is. Rounding errors halve on their way down, so every prefix of the order
holds each source to within a sample or so of its weight (``max_deviation``), with no drift.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .errors import InputError

_FEW = 16  # samples that are located one by one: less work than arrays
_SEARCHED = 6  # groups whose every tree is tried (945 trees); smaller sources are grouped first


@dataclass(frozen=True)
class _Node:
    weight: float
    source: int = -1
    left: _Node | None = None
    right: _Node | None = None


class Blend:
    """Shares of sources; ``weights`` are normalised, and each must be positive."""

    def __init__(self, weights: Sequence[float]) -> None:
        for position, weight in enumerate(weights):
            if not (weight > 0 and math.isfinite(weight)):
                raise InputError(
                    f"blend: source {position} has weight {weight}: a weight is a positive "
                    f"number; leave out what is not wanted"
                )
        if not weights:
            raise InputError("blend: no sources: name at least one shard")
        total = math.fsum(weights)
        self.weights = tuple(weight / total for weight in weights)
        self._root = _tree(self.weights)

    def locate(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(source, number of the sample within that source), each int64 [n], of samples [n]."""
        if len(indices) <= _FEW:
            found = [self._locate(number) for number in indices.tolist()]
            pairs = np.array(found, np.int64).reshape(-1, 2)
            return pairs[:, 0], pairs[:, 1]
        source = np.zeros(len(indices), np.int64)
        within = np.zeros(len(indices), np.int64)
        todo: list[tuple[_Node, NDArray[np.int64], NDArray[np.int64]]] = [
            (self._root, np.arange(len(indices)), indices.astype(np.int64))
        ]
        while todo:
            node, rows, number = todo.pop()
            if node.left is None or node.right is None:
                source[rows], within[rows] = node.source, number
                continue
            share = node.left.weight / node.weight
            gone_left = _rounded(number, share)
            goes_left = _rounded(number + 1, share) > gone_left
            todo.append((node.left, rows[goes_left], gone_left[goes_left]))
            todo.append((node.right, rows[~goes_left], (number - gone_left)[~goes_left]))
        return source, within

    def _locate(self, number: int) -> tuple[int, int]:
        node = self._root
        while (left := node.left) is not None and (right := node.right) is not None:
            share = left.weight / node.weight
            gone_left = math.floor(number * share + 0.5)
            if math.floor((number + 1) * share + 0.5) > gone_left:
                node, number = left, gone_left
            else:
                node, number = right, number - gone_left
        return node.source, number

    @cached_property
    def max_deviation(self) -> float:
        """No prefix of the order is further than this from any source's due, in samples."""
        return _deviation(self._root, 0.0)


def _rounded(number: NDArray[np.int64], share: float) -> NDArray[np.int64]:
    return np.floor(number * share + 0.5).astype(np.int64)


def _deviation(node: _Node, inherited: float) -> float:
    if node.left is None or node.right is None:
        return inherited
    return max(
        _deviation(child, 0.5 + child.weight / node.weight * inherited)
        for child in (node.left, node.right)
    )


def _tree(weights: Sequence[float]) -> _Node:
    heap = [(weight, source, _Node(weight, source)) for source, weight in enumerate(weights)]
    heapq.heapify(heap)
    order = len(heap)
    while len(heap) > _SEARCHED:
        (_, _, left), (_, _, right) = heapq.heappop(heap), heapq.heappop(heap)
        joined = _Node(left.weight + right.weight, -1, left, right)
        heapq.heappush(heap, (joined.weight, order, joined))
        order += 1
    return _best_tree([node for _, _, node in sorted(heap)], 0.0)[1]


def _best_tree(nodes: list[_Node], inherited: float) -> tuple[float, _Node]:
    """The tree over ``nodes`` with the least deviation at its worst leaf, by trying all."""
    if len(nodes) == 1:
        return inherited, nodes[0]
    total = math.fsum(node.weight for node in nodes)
    best: tuple[float, _Node] | None = None
    for chosen in range(1 << (len(nodes) - 1), (1 << len(nodes)) - 1):  # the last is always left
        sides = [[n for i, n in enumerate(nodes) if (chosen >> i & 1) == side] for side in (1, 0)]
        built = [
            _best_tree(side, 0.5 + math.fsum(n.weight for n in side) / total * inherited)
            for side in sides
        ]
        worst = max(deviation for deviation, _ in built)
        if best is None or worst < best[0]:
            best = worst, _Node(total, -1, built[0][1], built[1][1])
    assert best is not None
    return best
