"""More samples for a better answer: votes, the best of several, and what they are worth.

Pure: verdicts and answers in, estimates out.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from random import Random

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?|-?\.\d+")
_MARKED = re.compile(r"####\s*(-?[\d,.]+)")
_MOST = 2000  # subsets that a vote is averaged over


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Chance that one of k answers, drawn from `samples` without return, is right; `correct` are.

    The unbiased estimator of Chen et al., arXiv 2107.03374, equation 1.
    """
    if not 0 <= correct <= samples or not 1 <= k <= samples:
        raise ValueError(f"pass@{k} of {correct} in {samples}: k and correct are at most samples")
    if samples - correct < k:
        return 1.0
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


def number_in(text: str) -> str | None:
    """The number an answer ends with, in one form: behind `####` if there is one, else the last."""
    marked = _MARKED.search(text)
    found = [marked[1]] if marked else _NUMBER.findall(text)
    if not found:
        return None
    digits = found[-1].replace(",", "").rstrip(".")
    try:
        value = float(digits)
    except ValueError:
        return None
    if not math.isfinite(value):
        return None
    return str(int(value)) if value == int(value) else repr(value)


def majority(answers: Sequence[str | None]) -> str | None:
    """The answer that most samples give (self-consistency, arXiv 2203.11171); of equals the first.

    None, no answer, never wins over an answer.
    """
    counts = Counter(answer for answer in answers if answer is not None)
    return max(counts, key=lambda answer: counts[answer]) if counts else None


def vote_accuracy(answers: Sequence[str | None], truth: str, k: int, seed: int = 0) -> float:
    """How often the majority of k of the answers is right: over all subsets, or many of them."""
    if math.comb(len(answers), k) <= _MOST:
        subsets = [list(chosen) for chosen in combinations(answers, k)]
    else:
        chance = Random(seed)
        subsets = [chance.sample(list(answers), k) for _ in range(_MOST)]
    return sum(majority(subset) == truth for subset in subsets) / len(subsets)


def best_of(scores: Sequence[float], right: Sequence[bool], k: int) -> float:
    """Chance that the best-scored of k answers, drawn without return, is right.

    Answers sorted by score: the i-th best (from 0) is the best of k where the other k - 1 come from
    those behind it. Of equal scores the first counts as better.
    """
    order = sorted(range(len(scores)), key=lambda index: (-scores[index], index))
    total = math.comb(len(scores), k)
    return (
        sum(
            math.comb(len(scores) - place - 1, k - 1) * right[index]
            for place, index in enumerate(order)
        )
        / total
    )
