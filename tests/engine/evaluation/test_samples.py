"""Estimators against counting every subset; the windows of a perplexity."""

from __future__ import annotations

from itertools import combinations

import pytest

from trivium.engine.evaluation.samples import best_of, majority, number_in, pass_at_k, vote_accuracy

RIGHT = [True, False, False, True, False]
SCORES = [-1.0, -0.5, -2.0, -0.7, -3.0]


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_estimators_count_every_subset(k):
    subsets = list(combinations(range(5), k))
    any_right = sum(any(RIGHT[i] for i in s) for s in subsets) / len(subsets)
    best = sum(RIGHT[max(s, key=lambda i: SCORES[i])] for s in subsets) / len(subsets)
    assert pass_at_k(5, 2, k) == pytest.approx(any_right)
    assert best_of(SCORES, RIGHT, k) == pytest.approx(best)


def test_votes():
    assert majority(["1", None, None, None, "2", "2"]) == "2"
    assert majority([None]) is None
    assert vote_accuracy(["1", "1", "2"], "1", 3) == 1
    assert vote_accuracy(["1", "1", "2"], "1", 1) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("text", "number"),
    [("so 1,234.", "1234"), ("#### 18\n7", "18"), ("none", None), ("it is -2.50", "-2.5")],
)
def test_number_in(text, number):
    assert number_in(text) == number
