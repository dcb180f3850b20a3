from __future__ import annotations

import json
import random

import pyarrow as pa
import pytest

from trivium.data_pipeline.report import Lengths, Profile
from trivium.data_pipeline.report.profile import EDGES
from trivium.data_pipeline.stages.stage import batch

CHANCE = random.Random(3)
TEXTS = ["", "x", "é" * 9, "漢字" * 5, "😀" * 100] + [
    CHANCE.choice("aß字😀") * round(10 ** CHANCE.uniform(0, 4)) for _ in range(300)
]
CODES = [CHANCE.choice(["en", "zh", None]) for _ in TEXTS]


def documents(first: int = 0, last: int = len(TEXTS)) -> pa.Table:
    table = batch(TEXTS[first:last])
    return table.append_column("language", pa.array(CODES[first:last], pa.string()))


def test_edges_are_whole_preferred_numbers():
    assert EDGES[:18].tolist() == [1, 2, 3, 4, 5, 7, 8, 10, 13, 16, 20, 25, 32, 40, 50, 63, 80, 100]
    assert EDGES[-1] > 10**11
    assert {10**n for n in range(12)} <= set(EDGES.tolist())


def test_lengths_are_of_characters():
    lengths = Profile.of(documents()).histogram()
    sizes = [len(text) for text in TEXTS]
    for low, high, count in zip(lengths.edges, lengths.edges[1:], lengths.counts, strict=False):
        assert count == sum(low <= max(size, 1) < high for size in sizes)
    assert len(lengths.edges) == len(lengths.counts) + 1
    assert lengths.counts[0]
    assert lengths.counts[-1]
    assert lengths.documents == len(TEXTS)
    assert (lengths.shortest, lengths.longest) == (0, max(sizes))
    assert lengths.characters == sum(sizes)


def test_languages_are_counted_and_no_language_is_undetermined():
    found = Profile.of(documents()).languages
    assert found == {code or "und": CODES.count(code) for code in ("en", "zh", None)}
    assert Profile.of(batch(TEXTS)).languages == {}


@pytest.mark.parametrize("size", [1, 7, 100])
def test_parts_add_up_in_any_order(size):
    parts = [Profile.of(documents(n, n + size)) for n in range(0, len(TEXTS), size)]
    parts.append(Profile.of(documents(0, 0)))
    random.Random(size).shuffle(parts)
    total = Profile()
    for part in parts:
        total.add(Profile.from_json(json.loads(json.dumps(part.to_json()))))
    whole = Profile.of(documents())
    assert total == whole
    assert list(total.to_json()["lengths"]) == list(whole.to_json()["lengths"])


def test_nothing_has_no_histogram():
    assert Profile.of(batch([])) == Profile()
    assert Profile().histogram() == Lengths()
    assert Profile.from_json(Profile().to_json()) == Profile()


def test_chunks_and_plain_strings_are_counted_too():
    table = pa.concat_tables([batch(["a", "bb"]), batch(["ccc"])])
    assert Profile.of(table) == Profile.of(pa.table({"text": ["a", "bb", "ccc"]}))
