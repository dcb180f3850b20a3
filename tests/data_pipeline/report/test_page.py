"""The page is whole, needs no network, says what the report says, and shows texts without harm."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from resiliparse.parse.html import HTMLTree

from tests.data_pipeline.report.facts import HOSTILE, full
from trivium.data_pipeline.config_tree import load, to_dict
from trivium.data_pipeline.errors import InputError
from trivium.data_pipeline.recipe import Recipe
from trivium.data_pipeline.refine import refine
from trivium.data_pipeline.report import (
    Cluster,
    Member,
    Profile,
    Report,
    SourceFacts,
    StageFacts,
    render,
    write_report,
)
from trivium.data_pipeline.report.quantities import count, duration, percent, short, size, things
from trivium.data_pipeline.report.visible import attribute, visible
from trivium.data_pipeline.stages.stage import batch
from trivium.data_pipeline.stages.tally import EXAMPLES, Example

VOID = {"meta", "br", "input", "stop", "path"}


class Page(HTMLParser):
    """Fails on an element that is closed wrongly; collects text, elements and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: dict[str, list[str]] = {}
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            self.attributes.setdefault(name, []).append(value or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += data.replace("\u00a0", " ")


def test_the_page_tells_the_report():
    told = Page(render(full("the text", "the name"))).text
    for words in (
        "Of 1,000 documents, 400 stayed (40 %).",
        "Most that were dropped fell to the name: the text (599).",
        "−73 unreadable, 4 empty",
        "1,000 → 400 documents3.91 KiB → 1 KiB",
        "17 changed",
        "−60060 %",
        "600 documents, 60 % of what it was given",
        "the text599 99.8 %",
        "Examples, 1 of 599",
        "median between 125 and 159, mean 150, shortest 101, longest 199",
        "300 75 %",
        "Cluster 1 7 documents, 3 shown",
        "similarity 0.875",
        "through others",
        "5,000 characters, 1 to 22 shown",
        "4.000.7575 %890100",
        "500 ms 7.81 KiB/s",
        "everything else reading, comparing, writing1.2 s",
        "What could not be read of the name: 3 records, the first 1 here",
        "the name: the text",
        "  - pii:\n      k:\n        2: 0.5",
        "32,000",
        "1.5 s by the clock",
    ):
        assert words in told


def test_it_needs_no_network():
    text = render(full())
    page = Page(text)
    assert set(page.attributes["href"]) == {"#sources", "#stage-1", "#documents", "report.json"}
    assert {link[1:] for link in page.attributes["href"] if link[0] == "#"} <= set(
        page.attributes["id"]
    )
    assert "src" not in page.attributes
    assert re.findall(r"https?:|@import|fetch\(|url\((?!#)", text) == []
    assert len(page.attributes["id"]) == len(set(page.attributes["id"]))


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_are_shown_and_do_nothing(text):
    plain, hostile = render(full("text", "name")), render(full(text, text))
    hostile.encode()  # no half surrogates
    page = Page(hostile)
    assert sorted(set(page.tags)) == sorted(set(Page(plain).tags) | {"span"})
    assert set(page.attributes) == set(Page(plain).attributes)
    assert hostile.count("<script") == hostile.count("</script") == 1
    assert (
        re.findall("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]", hostile)
        == []
    )
    for part in re.findall(r"[\w<>&;'\"()\[\]/!=.-]+", re.sub("[\ud800-\udfff]", " ", text)):
        assert part in page.text


def test_another_parser_finds_the_same_page():
    """A browser's rules, by a second implementation: nothing moves out of where it was written."""
    tree = HTMLTree.parse(render(full(HOSTILE[1], HOSTILE[0])))
    assert len(tree.document.query_selector_all("script")) == 1
    assert len(tree.body.query_selector_all("body > section")) == 8
    [example] = tree.document.query_selector_all(".examples .text")
    assert example.text == HOSTILE[1]
    assert tree.title == HOSTILE[0] + " · Trivium"


def test_what_cannot_be_seen_is_spelled_out():
    assert visible("a\x00b\r\nc\td") == 'a<span class="unseen">U+0000</span>b\nc\td'
    assert visible("\u202e<") == '<span class="unseen">U+202E</span>&lt;'
    assert visible("\U000e0041\ud83d") == (
        '<span class="unseen">U+E0041</span><span class="unseen">U+D83D</span>'
    )
    assert attribute("\"'\x00<") == "&quot;&#x27;U+0000&lt;"
    assert visible("naïve 漢字 שלום \u200c😀") == "naïve 漢字 שלום \u200c😀"


def test_differences_are_marked():
    members = (
        Member("f", "1", "the quick brown fox", True),
        Member("f", "2", "the quick\nred fox", False, 0.5),
    )
    text = render(Report({}, clusters=(Cluster(2, members),)))
    assert "the quick\n<del>brown</del> <ins>red</ins> fox</div>" in text
    assert ">the quick brown fox</div>" in text


def test_white_space_that_is_a_control_is_spelled_out_in_marks_too():
    members = (Member("f", "1", "a b", True), Member("f", "2", "a c\x1f\u2028", False))
    text = render(Report({}, clusters=(Cluster(2, members),)))
    assert (
        '<ins>c</ins><span class="unseen">U+001F</span><span class="unseen">U+2028</span>' in text
    )


@pytest.mark.parametrize(
    "report",
    [
        Report({}),
        Report({}, stages=(StageFacts("a", 0, 0, 0, 0),)),
        Report({}, sources=(SourceFacts("a", 0, 0),)),
        Report({}, clusters=(Cluster(0, ()),)),
        replace(full(), sources=()),
        replace(full(), stages=()),
        replace(full(), shards=(), languages={}),
        replace(full(), cpu_seconds=0.0, wall_seconds=0.0),
    ],
)
def test_reports_with_holes_have_a_page(report):
    Page(render(report))


def test_the_stream_narrows_by_what_is_dropped():
    text = render(full())
    by_documents = re.findall(r'class="documents".*?</svg>', text)
    assert len(by_documents) == 4  # read, two stages, stayed
    ends = [
        re.findall(r'class="stays" d="M0 0H([\d.]+)C[^H]* ([\d.]+) 100\.0H0Z', row)
        for row in by_documents
    ]
    widths = [tuple(map(float, found[0])) for found in ends]
    whole = 1007  # records, with unreadable and empty ones
    assert widths == [
        (1000.0, pytest.approx(1000 * 1000 / whole, abs=0.1)),
        (pytest.approx(1000 * 1000 / whole, abs=0.1),) * 2,
        (pytest.approx(1000 * 1000 / whole, abs=0.1), pytest.approx(1000 * 400 / whole, abs=0.1)),
        (pytest.approx(1000 * 400 / whole, abs=0.1),) * 2,
    ]
    assert ["turned" in row for row in by_documents] == [True, False, True, False]


def test_its_size_is_bounded():
    example = Example("0", "s" * 300, "i" * 300, "<" * 100_000)
    stage = StageFacts("stage", 10**6, 0, 9, 0, 0, {"why": 10**6}, {"why": (example,) * 1000})
    members = tuple(Member("s", "i", "<" * 100_000, n == 0) for n in range(50))
    report = Report({}, stages=(stage,), clusters=(Cluster(50, members),) * 500)
    text = render(report)
    assert Page(text).tags.count("li") == 3 + EXAMPLES
    assert text.count('class="cluster"') == 20
    assert len(text) < 1_000_000


def test_files_are_written_and_a_full_folder_says_so(tmp_path):
    assert write_report(full(), tmp_path / "new") == tmp_path / "new" / "report.html"
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"report.json", "report.html"}
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write here"):
        write_report(full(), tmp_path / "file")


def test_a_recipe_that_was_run(tmp_path):
    prose = "The river has run to the sea with all of the water that was in it. " * 6
    rows = [f"{prose} Number {n} of them." for n in range(30)] + ["No."] * 5 + [prose] * 3
    (tmp_path / "a.txt").write_text("\n\n".join(rows))
    (tmp_path / "b.jsonl").write_text('{"text": "' + prose + '"}\n{"text": \n')
    (tmp_path / "recipe.yaml").write_text(
        f"sources:\n  - {{name: text, paths: '{tmp_path}/a.txt', split_text: paragraphs}}\n"
        f"  - {{name: lines, paths: '{tmp_path}/b.jsonl'}}\n"
        "stages: [normalize, seed_rules: {max_characters: 9999}, exact_duplicates]\n"
    )
    recipe = load(Recipe, tmp_path / "recipe.yaml")
    refined = refine(recipe, tmp_path / "work")
    report = Report(
        to_dict(recipe),
        tuple(SourceFacts.of(name, counts) for name, counts in refined.read.items()),
        tuple(StageFacts.of(name, tally) for name, tally in refined.tallies.items()),
        lengths=Profile.of(batch([prose])).histogram(),
    )
    write_report(report, tmp_path)
    assert Report.load(tmp_path / "report.json") == report
    told = Page((tmp_path / "report.html").read_text(encoding="utf-8")).text
    assert "Of 39 documents, 31 stayed (79 %)." in told
    assert "exact duplicate" in told
    assert "What could not be read of lines: 1 record" in told


def test_drawing_a_page_loads_no_engine():
    code = (
        "import sys, trivium.data_pipeline.report\n"
        "sys.exit(bool({'torch', 'matplotlib', 'trivium.engine'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def spaced(text: str) -> str:
    """With plain spaces."""
    return text.replace("\u00a0", " ")


def test_quantities():
    assert [short(n) for n in (0, 7, 999, 1000, 12_345, 999_999)] == [
        *("0", "7", "999", "1k", "12.3k", "1M"),
    ]
    assert [spaced(size(n)) for n in (0, 512, 1000, 1024, 5 << 20, 3 << 50)] == [
        *("0 B", "512 B", "0.977 KiB", "1 KiB", "5 MiB", "3,072 TiB"),
    ]
    assert [spaced(duration(s)) for s in (0, 0.0421, 0.9996, 3.21, 59.96, 3725, 200_000)] == [
        *("0 s", "42.1 ms", "1.0 s", "3.2 s", "1:00", "1:02:05", "2 d 7 h"),
    ]
    assert [spaced(percent(n, 10_000)) for n in (0, 1, 42, 995, 1234, 9984, 9999, 10_000)] == [
        *("0 %", "0.01 %", "0.4 %", "10 %", "12 %", "99.8 %", "over 99.9 %", "100 %"),
    ]
    assert percent(1, 0) == "–"
    assert spaced(percent(1, 10**6)) == "under 0.001 %"
    assert (things(1, "page"), things(0, "page"), count(12_345)) == ("1 page", "0 pages", "12,345")
