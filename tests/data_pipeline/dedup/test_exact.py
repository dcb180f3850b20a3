"""Equal documents are found across parts, whatever the number of ranges."""

from __future__ import annotations

import random

import numpy as np
import pytest

from trivium.data_pipeline.dedup import shuffle
from trivium.data_pipeline.dedup.exact import normal_url, text_entries, url_entries
from trivium.data_pipeline.dedup.shuffle import (
    EntryWriter,
    count_ranges,
    document_numbers,
    entries,
    followers,
    part_and_row,
    read_range,
)
from trivium.data_pipeline.stages.stage import batch


@pytest.mark.parametrize("ranges", [1, 2, 3, 64])
@pytest.mark.parametrize("run", [1 << 22, 7])
def test_duplicates_of_text_across_parts(tmp_path, monkeypatch, ranges, run):
    monkeypatch.setattr(shuffle, "_RUN", run)
    chance = random.Random(0)
    corpus = [[f"text {chance.randrange(40)}" for _ in range(30)] for _ in range(5)]
    folders = [tmp_path / str(part) for part in range(len(corpus))]
    for folder, texts in zip(folders, corpus, strict=True):
        with EntryWriter(folder) as writer:
            for first in range(0, len(texts), 4):
                rows = np.arange(first, min(first + 4, len(texts)), dtype=np.uint64)
                writer.add(text_entries(batch(texts[first : first + 4]), rows))
        assert writer.total == len(texts)
    found = [read_range(folders, number, ranges) for number in range(ranges)]
    assert sum(map(len, found)) == sum(map(len, corpus))
    assert np.all(np.diff(np.concatenate(found)["key"].astype(object)) >= 0)
    pairs = [followers(one) for one in found]

    dropped = sorted(int(d) for follows, _ in pairs for d in follows)
    seen: set[str] = set()
    expected = []
    for part, texts in enumerate(corpus):
        for row, text in enumerate(texts):
            if text in seen:
                expected.append((part, row))
            seen.add(text)
    parts, rows = part_and_row(np.array(dropped, np.uint64))
    assert list(zip(parts.tolist(), rows.tolist(), strict=True)) == expected
    texts_of = {
        int(number): text
        for part, texts in enumerate(corpus)
        for number, text in zip(numbers(part, len(texts)), texts, strict=True)
    }
    assert all(
        texts_of[int(a)] == texts_of[int(b)] for pair in pairs for a, b in zip(*pair, strict=True)
    )


def numbers(part, rows):
    return document_numbers(part, np.arange(rows, dtype=np.uint64))


def test_a_key_alone_is_not_enough():
    keys = np.array([7, 7, 7, 9], np.uint64)
    checks = np.array([1, 2, 1, 1], np.uint64)
    found = entries(keys, checks, numbers(0, 4))
    follows, leaders = followers(found[np.lexsort((found["document"], checks, keys))])
    assert (follows.tolist(), leaders.tolist()) == ([2], [0])


def test_a_document_does_not_follow_itself():
    twice = entries(
        np.full(3, 5, np.uint64), np.zeros(3, np.uint64), np.array([4, 4, 6], np.uint64)
    )
    assert [x.tolist() for x in followers(twice)] == [[6], [4]]
    assert [len(x) for x in followers(twice[:0])] == [0, 0]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("http://www.Example.com:80/a/", "https://example.com/a", True),
        ("https://example.com/a?b=2&a=1&utm_source=x#top", "https://example.com/a?a=1&b=2", True),
        ("https://example.com/A", "https://example.com/a", False),
        ("https://example.com:8443/a", "https://example.com/a", False),
        ("https://example.com/a?x=1", "https://example.com/a?x=2", False),
        ("https://a.example.com/", "https://b.example.com/", False),
        ("not a url", " not a url ", True),
        ("https://[half/", "https://[half/x", False),
    ],
)
def test_urls_that_name_the_same(one, other, same):
    assert (normal_url(one) == normal_url(other)) is same
    assert normal_url(normal_url(one)) == normal_url(one)


def test_documents_without_a_url_are_no_duplicates():
    rows = [{"text": "a", "url": None}, {"text": "b", "url": ""}, {"text": "c", "url": "http://x/"}]
    found = url_entries(batch(rows), numbers(3, 3))
    assert part_and_row(found["document"])[1].tolist() == [2]


def test_ranges_keep_to_the_limit():
    assert [count_ranges(total, 100) for total in (0, 100, 101, 1000)] == [1, 1, 2, 10]
