"""Stages over a corpus on disk: what the corpus gives in memory, however it is cut and spilled."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("numba")

from tests.data_pipeline.dedup.corpora import edited
from trivium.data_pipeline.dedup import near_whole, sets, shuffle
from trivium.data_pipeline.dedup.near import near_duplicates
from trivium.data_pipeline.dedup.near_whole import NearDuplicates
from trivium.data_pipeline.dedup.paragraphs import ParagraphDuplicates
from trivium.data_pipeline.dedup.whole import ExactDuplicates, Sketches, Whole
from trivium.data_pipeline.errors import InputError
from trivium.data_pipeline.stages.quality import quality
from trivium.data_pipeline.stages.stage import batch
from trivium.data_pipeline.tasks import Facts, Task, run_tasks


@pytest.fixture(scope="module")
def corpus() -> list[str]:
    """Texts of made-up words, English and Chinese, many of them again with a few edits."""
    chance = random.Random(3)
    words = ["".join(chance.choices("etaoinshr", k=chance.randint(2, 8))) for _ in range(900)]
    words += ["the", "of", "and", "to", "in"] * 90
    han = [chr(code) for code in range(0x4E00, 0x4E00 + 700)]
    texts = [
        " ".join(chance.choices(words, k=120)) if n % 3 else "".join(chance.choices(han, k=300))
        for n in range(150)
    ]
    copies = [edited(text, 0.003, chance) for text in texts[:80] for _ in range(1 + len(text) % 3)]
    everything = [*texts, *copies, "", " \n"]
    chance.shuffle(everything)
    return everything


def sketched(stage: Whole, texts: list[str], cuts: list[int], folder: Path) -> Sketches:
    """Sketches of the pieces of `texts` between cuts, each filled by batches of seven."""
    folders, entries = [], 0
    for number, (first, last) in enumerate(zip([0, *cuts], [*cuts, len(texts)], strict=True)):
        folders.append(folder / str(number))
        with stage.sketch(folders[-1]) as sketch:
            for row in range(first, last, 7):
                sketch.add(batch(texts[row : min(row + 7, last)]))
        entries += sketch.entries
    return Sketches(tuple(folders), 0, entries)


def perform(tasks: list[Task]) -> list[Facts]:
    return run_tasks(tasks)


def applied(stage: Whole, texts: list[str], cuts: list[int], decided: Path) -> pa.Table:
    """What stays of the corpus."""
    kept = []
    for number, (first, last) in enumerate(zip([0, *cuts], [*cuts, len(texts)], strict=True)):
        carried = stage.stage(decided / f"{number:05d}.npy")
        for row in range(first, last, 11):
            verdict = carried(batch(texts[row : min(row + 11, last)]))
            kept.append(verdict.documents.filter(pa.compute.is_null(verdict.reasons)))
    return pa.concat_tables(kept).column("text").to_pylist()


@pytest.mark.parametrize("cuts", [[], [100], [0, 13, 13, 90, 200]])
@pytest.mark.parametrize("spilled", [False, True])
def test_as_in_memory(corpus, tmp_path, monkeypatch, cuts, spilled):
    if spilled:
        monkeypatch.setattr(shuffle, "_RUN", 500)
        monkeypatch.setattr(shuffle, "RANGE", 300)
        monkeypatch.setattr(near_whole, "_PAIRS", 40)
        monkeypatch.setattr(sets, "_GATHERED", 1000)
    stage = NearDuplicates()
    expected = near_duplicates(corpus, stage, quality(batch(corpus)).astype(np.float32))
    assert 60 < (~expected.keep).sum() < len(corpus) // 2
    sketches = sketched(stage, corpus, cuts, tmp_path / "sketches")
    facts = stage.resolve(sketches, tmp_path / "out", perform)
    kept = [text for text, keep in zip(corpus, expected.keep, strict=True) if keep]
    assert applied(stage, corpus, cuts, tmp_path / "out" / "drops") == kept
    assert facts["documents"] == (~expected.keep).sum()
    sizes = np.unique(expected.clusters, return_counts=True)[1]
    several = {str(size): int((sizes == size).sum()) for size in set(sizes.tolist()) if size > 1}
    assert facts["clusters"] == several
    if spilled:
        assert len(list((tmp_path / "out" / "pairs").iterdir())) > 5


@pytest.mark.parametrize("which", ["first", "longest"])
def test_which_one_stays(corpus, tmp_path, which):
    stage = NearDuplicates(keep_which=which)
    scores = np.array([len(text) if which == "longest" else 0 for text in corpus], float)
    expected = near_duplicates(corpus, stage, scores)
    stage.resolve(sketched(stage, corpus, [90], tmp_path / "s"), tmp_path / "out", perform)
    kept = [text for text, keep in zip(corpus, expected.keep, strict=True) if keep]
    assert applied(stage, corpus, [90], tmp_path / "out" / "drops") == kept


def test_the_largest_clusters_are_told(corpus, tmp_path):
    texts = [*corpus[:60], *[corpus[70]] * 9]
    stage = NearDuplicates()
    facts = stage.resolve(sketched(stage, texts, [63], tmp_path / "s"), tmp_path / "out", perform)
    largest = facts["largest"][0]
    assert largest["size"] == 9
    assert largest["rows"] == [[0, 60], [0, 61], [0, 62], [1, 0]]
    assert largest["kept"] == [True, False, False, False]
    assert largest["similarities"][1:] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("stage", [NearDuplicates(keep_which="first"), ExactDuplicates()])
def test_against_an_earlier_corpus(corpus, tmp_path, stage):
    """As if the earlier corpus came first; but what it dropped itself is not there any more."""
    half = len(corpus) // 2
    before, after = corpus[:half], [*corpus[half:], *corpus[:5]]
    earlier = sketched(stage, before, [50], tmp_path / "earlier")
    stage.resolve(earlier, tmp_path / "out", perform)
    kept = []
    entries = 0
    for number, folder in enumerate(earlier.folders):
        kept.append(tmp_path / "index" / str(number))
        entries += stage.keep(folder, tmp_path / "out" / "drops" / f"{number:05d}.npy", kept[-1])
    fresh = sketched(stage, after, [60], tmp_path / "fresh")
    both = Sketches((*kept, *fresh.folders), len(kept), entries + fresh.entries)
    stage.resolve(both, tmp_path / "both", perform)
    whole = sketched(stage, before + after, [half], tmp_path / "whole")
    stage.resolve(whole, tmp_path / "all", perform)
    stays = applied(stage, after, [60], tmp_path / "both" / "drops")
    expected = applied(stage, before + after, [half], tmp_path / "all" / "drops")
    first = applied(stage, before, [50], tmp_path / "out" / "drops")
    assert first + stays == expected
    assert len(stays) < len(after)


@pytest.mark.parametrize("unit", ["paragraph", "line"])
@pytest.mark.parametrize("cuts", [[], [2]])
def test_paragraphs_of_earlier_documents_are_taken_out(tmp_path, unit, cuts):
    end = "\n\n" if unit == "paragraph" else "\n"
    notice = "This  notice stands at the end of every page of the site."
    again = "Again and again it is."
    texts = [
        end.join(["The first page has words of its own.", notice]),
        end.join(["A second page, and the same notice.", notice.replace("  ", " "), "short"]),
        end.join([notice, "It stands in front here." * 3, notice]),
        notice,
        end.join(["short", "This one says a thing twice, it does.", again, again]),
    ]
    stage = ParagraphDuplicates(unit=unit)
    facts = stage.resolve(sketched(stage, texts, cuts, tmp_path / "s"), tmp_path / "out", perform)
    assert (facts["documents"], facts["paragraphs"]) == (4, 4)
    assert applied(stage, texts, cuts, tmp_path / "out" / "drops") == [
        texts[0],
        end.join(["A second page, and the same notice.", "short"]),
        "It stands in front here." * 3,
        end.join(["short", "This one says a thing twice, it does.", again]),
    ]
    carried = stage.stage(tmp_path / "out" / "drops" / "00000.npy")
    if not cuts:
        assert carried(batch(texts)).reasons.to_pylist()[3] == "only duplicate paragraphs"


@pytest.mark.parametrize(
    ("wrong", "part"),
    [
        (lambda: NearDuplicates(keep_which="best"), "quality, longest, first"),
        (lambda: NearDuplicates(threshold=0.0), "above 0"),
        (lambda: ParagraphDuplicates(unit="word"), "paragraph, line"),
        (lambda: ParagraphDuplicates(min_characters=0), "1 or more"),
    ],
)
def test_what_is_refused(wrong, part):
    with pytest.raises(InputError, match=part):
        wrong()
