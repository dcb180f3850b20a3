from __future__ import annotations

import random

import numpy as np
import pytest

from trivium.data_pipeline.dedup.near import near_duplicates
from trivium.data_pipeline.report import Document, chosen, cluster
from trivium.data_pipeline.report.clusters import PIECE, common_prefix, stretch

LABELS = np.array([0, 1, 0, 3, 1, 0, 6, 1, 8, 8])
KEEP = np.array([0, 1, 0, 1, 0, 1, 1, 0, 1, 0], bool)
PAIRS = np.array([[0, 5], [0, 2], [1, 4], [4, 7], [8, 9]])
ALIKE = np.array([0.9, 0.95, 0.8, 0.85, 1.0])


def test_the_largest_first_and_the_kept_one_before_the_others():
    found = list(chosen(LABELS, KEEP, PAIRS, ALIKE))
    assert [one.size for one in found] == [3, 3, 2]
    assert [one.rows for one in found] == [(5, 0, 2), (1, 4, 7), (8, 9)]
    assert [one.kept for one in found] == [(True, False, False)] * 2 + [(True, False)]
    assert [one.similarities for one in found] == [
        (None, 0.9, None),
        (None, 0.8, None),
        (None, 1.0),
    ]


def test_the_largest_members_are_shown_and_few_of_few():
    sizes = np.array([1, 1, 9, 1, 5, 1, 1, 7, 1, 1])
    found = list(chosen(LABELS, KEEP, PAIRS, ALIKE, sizes=sizes, clusters=2, members=2))
    assert [one.rows for one in found] == [(5, 2), (1, 7)]
    assert [one.size for one in found] == [3, 3]


def test_no_duplicates_no_clusters():
    none = np.empty((0, 2), np.int64)
    assert list(chosen(np.arange(5), np.ones(5, bool), none, np.empty(0))) == []
    assert list(chosen(np.arange(0), np.ones(0, bool), none, np.empty(0))) == []


def test_of_what_near_duplicates_finds():
    chance = random.Random(0)
    base = [" ".join(f"w{chance.randrange(5000)}" for _ in range(400)) for _ in range(6)]
    texts = [*base, base[2] + " end", base[2] + " other end", base[4] + " end"]
    found = near_duplicates(texts)
    shown = [
        cluster(one, lambda row: Document("file", str(row), texts[row]))
        for one in chosen(found.clusters, found.keep, found.pairs, found.similarities)
    ]
    assert [one.size for one in shown] == [3, 2]
    first, second, third = shown[0].members
    assert [(m.id, m.kept) for m in (first, second, third)] == [
        ("2", True),
        ("6", False),
        ("7", False),
    ]
    words = {
        row: set(zip(*(texts[row].split()[i:] for i in range(5)), strict=False)) for row in (2, 6)
    }
    exact = len(words[2] & words[6]) / len(words[2] | words[6])
    assert second.similarity == pytest.approx(exact)
    assert first.similarity is None
    assert second.text.endswith(" end")
    assert first.start == second.start == third.start > 0
    assert first.characters == len(texts[2])


def test_pieces_begin_a_little_before_the_first_difference():
    same = "word " * 4000
    start, (one, two) = stretch([same + "A" + "x" * 9000, same + "B" + "y" * 9000])
    assert len(same) - 200 < start < len(same)
    assert len(one) == len(two) == PIECE
    assert (one[len(same) - start], two[len(same) - start]) == ("A", "B")


@pytest.mark.parametrize(
    "texts", [[], [""], ["abc"], ["abc", "abc"], ["x" * 5000, "x" * 5000], ["", "x" * 5000]]
)
def test_pieces_of_texts_that_are_alike_are_as_full_as_can_be(texts):
    start, pieces = stretch(texts)
    longest = max(map(len, texts), default=0)
    assert start == 0 if longest <= PIECE or "" in texts else start > 0
    assert max(map(len, pieces), default=0) == min(longest, PIECE)
    assert all(text[start:].startswith(piece) for text, piece in zip(texts, pieces, strict=True))


def test_common_prefix():
    chance = random.Random(1)
    for _ in range(500):
        base = "".join(chance.choice("ab字") for _ in range(chance.randrange(40)))
        texts = [base[: chance.randrange(41)] + chance.choice(["", "a", "b字"]) for _ in range(3)]
        alike = [len(set(characters)) == 1 for characters in zip(*texts, strict=False)]
        assert common_prefix(texts) == [*alike, False].index(False)
