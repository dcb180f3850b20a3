"""Every stage over texts of any kind: the contract of `stages/stage.py`, whatever is in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("numba")

from trivium.data_pipeline.dedup.whole import Sketches, Whole
from trivium.data_pipeline.stages.registry import stage_classes
from trivium.data_pipeline.stages.stage import COLUMNS, Stage, Verdict, batch
from trivium.data_pipeline.tasks import run_tasks

FEW, MANY = 25, 600
TWICE = {"normalize", "fix_encoding", "pii"}  # a second time changes nothing more
PIECES = st.sampled_from(
    [
        *("the ", "and ", "Zürich ", "日本語の文章。", "中文", "العربية ", "ไทย", "한국어 ", "é "),
        *("\n", "\n\n", "\r\n", "\t", " ", "\u00a0", "\u3000", "\u2028", "\u200b", "\ufeff"),
        *("\x00", "\x07", "\x1b[31m", "\ufffd", "👩\u200d👧 ", "Ã¼", "â€œ", "•", "...", "…", "- "),
        *("<html><body><p>", "</p>", "<div>", "<!--", "-->", "&amp;", "{", "}", ";", "//", "#"),
        *("a@b.example ", "+49 30 123456 ", "192.168.1.1 ", "4111 1111 1111 1111 ", ". "),
        *("DE89370400440532013000 ", "http://example.org/x?y=1 ", "javascript ", "lorem ipsum "),
    ]
)
LONG = ["\n" * 20_000, "x" * 50_000, "\x00" * 300, "字" * 3000, "a\n" * 5000]
TEXTS = (
    st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
    | st.lists(PIECES, max_size=40).map("".join)
    | st.builds(lambda piece, times: piece * times, PIECES, st.sampled_from([100, 1000, 5000]))
    | st.builds(lambda text, times: text * times, st.text(max_size=5), st.sampled_from([50, 700]))
    | st.sampled_from(["", " ", *LONG])
)
ROWS = st.lists(TEXTS, max_size=6)
URLS = [
    None,
    "http://blocked.example/a",
    "",
    "not a url",
    "http://[::1",
    "http://例え.jp/\x00",
    "//",
]


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Parameters of the stages that need files."""
    folder = tmp_path_factory.mktemp("lists")
    (folder / "domains.txt").write_text("blocked.example\n")
    (folder / "words.txt").write_text("lorem ipsum\n中文\n", encoding="utf-8")
    (folder / "eval.txt").write_text(
        "the quick brown fox jumps over the lazy dog and runs away from it\n\n"
        + "日本語の文章" * 5,
        encoding="utf-8",
    )
    return {
        "blocklist": {"domains": str(folder / "domains.txt"), "words": str(folder / "words.txt")},
        "decontaminate": {"paths": (str(folder / "eval.txt"),)},
    }


def tables(texts: list[str]) -> dict[str, pa.Table]:
    """The same rows as a table of its own, as a slice of one, and in chunks."""
    rows = [
        {"text": text, "url": URLS[number % len(URLS)], "mime": [None, "text/html"][number % 2]}
        for number, text in enumerate(texts)
    ]
    schema = COLUMNS.append(pa.field("mime", pa.string()))
    whole = batch(rows).cast(schema) if rows else schema.empty_table()
    more = pa.concat_tables([batch([{"text": "before", "mime": None}]).cast(schema), whole, whole])
    middle = more.combine_chunks().slice(1, len(texts))
    half = len(texts) // 2
    return {
        "whole": whole,
        "sliced": middle,
        "chunked": pa.concat_tables([whole.slice(0, half), whole.slice(half)]),
    }


def judged(stage: Stage, documents: pa.Table) -> tuple[list[Any], list[Any]]:
    """(rows as the stage leaves them, reasons), the contract checked."""
    before = pa.Table.from_pylist(documents.to_pylist(), documents.schema)
    verdict: Verdict = stage(documents)
    assert documents.equals(before), "the stage wrote into its input"
    found, reasons = verdict.documents, verdict.reasons
    found.validate(full=True)
    reasons.validate(full=True)
    assert len(found) == len(reasons) == len(documents)
    assert pa.types.is_string(reasons.type)
    assert found.schema.field("text") == COLUMNS.field("text")
    assert found.column("text").null_count == 0
    for name in documents.column_names:
        if name != "text":
            assert found.column(name).equals(documents.column(name))
    changed = pc.sum(pc.not_equal(found.column("text"), documents.column("text"))).as_py() or 0
    assert verdict.changed == changed
    return found.to_pylist(), reasons.to_pylist()


def names(whole: bool) -> list[str]:
    return [name for name, cls in stage_classes().items() if issubclass(cls, Whole) == whole]


def fuzz(name: str, lists: dict[str, Any], examples: int) -> None:
    stage = stage_classes()[name](**lists.get(name, {}))

    @settings(
        max_examples=examples, deadline=None, database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )  # fmt: skip
    @given(ROWS)
    def holds(texts: list[str]) -> None:
        ways = tables(texts)
        rows, reasons = judged(stage, ways["whole"])
        for way in ("sliced", "chunked"):
            assert judged(stage, ways[way]) == (rows, reasons), way
        for number in range(len(texts)):
            alone = judged(stage, ways["whole"].slice(number, 1))
            assert alone == (rows[number : number + 1], reasons[number : number + 1])
        if name in TWICE:
            schema = ways["whole"].schema
            once = [{key: row[key] for key in schema.names} for row in rows]
            again, _ = judged(stage, pa.Table.from_pylist(once, schema))
            assert [row["text"] for row in again] == [row["text"] for row in rows]

    holds()


@pytest.mark.parametrize("name", names(whole=False))
def test_the_contract_of_stages(name: str, lists: dict[str, Any]) -> None:
    fuzz(name, lists, FEW)


@pytest.mark.slow
@pytest.mark.parametrize("name", names(whole=False))
def test_the_contract_over_many_texts(name: str, lists: dict[str, Any]) -> None:
    fuzz(name, lists, MANY)


def compared(stage: Any, parts: list[list[str]], folder: Path) -> list[str]:
    """The texts that stay when the parts are compared."""
    folders, entries = list[Path](), 0
    for number, texts in enumerate(parts):
        folders.append(folder / f"sketch-{number}")
        with stage.sketch(folders[-1]) as sketch:
            if texts:
                sketch.add(batch(texts))
        entries += sketch.entries
    stage.resolve(Sketches(tuple(folders), 0, entries), folder / "out", run_tasks)
    left = list[str]()
    for number, texts in enumerate(parts):
        carry_out = stage.stage(folder / "out" / "drops" / f"{number:05d}.npy")
        if texts:
            rows, reasons = judged(carry_out, batch(texts))
            left += [row["text"] for row, why in zip(rows, reasons, strict=True) if why is None]
    return left


@pytest.mark.parametrize("name", names(whole=True))
def test_stages_over_the_corpus(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    stage = stage_classes()[name]()

    @settings(
        max_examples=15, deadline=None, database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )  # fmt: skip
    @given(st.lists(TEXTS.filter(str.strip), min_size=1, max_size=8), st.integers(0, 8))
    def holds(texts: list[str], cut: int) -> None:
        folder = tmp_path_factory.mktemp(name)
        left = compared(stage, [texts[:cut], texts[cut:]], folder / "two")
        assert left == compared(stage, [texts], folder / "one")
        if name == "exact_duplicates":
            assert left == list(dict.fromkeys(texts))
        if name == "url_duplicates":  # there are none
            assert left == texts
        if name == "near_duplicates":
            assert list(dict.fromkeys(left)) == left
            assert set(left) <= set(texts)
        assert left

    holds()
