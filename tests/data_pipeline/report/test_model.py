from __future__ import annotations

import json

import pytest

from tests.data_pipeline.report.facts import HOSTILE, full
from trivium.data_pipeline.errors import InputError
from trivium.data_pipeline.readers import Counts
from trivium.data_pipeline.report import Report, SourceFacts, StageFacts, write_report
from trivium.data_pipeline.report.model import NAME, clipped
from trivium.data_pipeline.report.recipe_text import recipe_text
from trivium.data_pipeline.stages.tally import EXAMPLES, Example, Tally
from trivium.data_pipeline.yaml_text import parse_yaml


@pytest.mark.parametrize("text", ["plain", *HOSTILE])
def test_json_there_and_back(text):
    report = full(text, text)
    assert Report.from_json(json.loads(json.dumps(report.to_json()))) == report


def test_an_empty_report_there_and_back(tmp_path):
    write_report(Report(recipe={}), tmp_path)
    assert Report.load(tmp_path / "report.json") == Report(recipe={})


def test_what_is_on_disk_is_the_report(tmp_path):
    write_report(full("half \ud800 pair"), tmp_path)
    assert Report.load(tmp_path / "report.json") == full("half \ufffd\ufffd\ufffd pair")
    again = tmp_path / "again"
    write_report(Report.load(tmp_path / "report.json"), again)
    assert (again / "report.json").read_bytes() == (tmp_path / "report.json").read_bytes()


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"format": 99}, "not a report of format 1"),
        ({"languages": {"en": "many"}}, "languages: en: str where int belongs"),
        ({"stages": 3}, "stages: int where tuple belongs"),
        ({"sources": [{"name": "a"}]}, "sources 0: documents is missing"),
        ({"sources": [{"pages": 1}]}, "unknown key 'pages'"),
        ({"cpu_seconds": True}, "cpu_seconds: bool where float belongs"),
        ({"recipe": "a: ["}, "recipe: not valid YAML"),
    ],
)
def test_what_is_no_report_is_an_input_error(change, part):
    with pytest.raises(InputError) as caught:
        Report.from_json({**full().to_json(), **change}, "the place")
    assert str(caught.value).startswith("the place: ")
    assert part in str(caught.value)


@pytest.mark.parametrize("content", [None, b"{", b"\xff", b"[1]"])
def test_a_file_that_is_no_report(tmp_path, content):
    path = tmp_path / "report.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"report\.json"):
        Report.load(path)


def test_facts_of_a_stage_are_its_tally():
    examples = [Example(f"{n:02}", "file", "x" * 1000, "text") for n in range(EXAMPLES + 5)]
    tally = Tally(9, 3, 90, 30, 1, {"why": 6}, {"why": examples}, 0.5)
    facts = StageFacts.of("name", tally)
    assert (facts.name, facts.documents_in, facts.documents_out) == ("name", 9, 3)
    assert (facts.bytes_in, facts.bytes_out, facts.changed, facts.seconds) == (90, 30, 1, 0.5)
    assert facts.dropped == {"why": 6}
    assert [one.rank for one in facts.examples["why"]] == [f"{n:02}" for n in range(EXAMPLES)]
    assert {len(one.id) for one in facts.examples["why"]} == {NAME}


def test_facts_of_a_source_are_its_counts():
    counts = Counts(documents=5, text_bytes=50, empty=2, skipped=3, first_problems=["p"] * 12)
    assert SourceFacts.of("s", counts) == SourceFacts("s", 5, 50, 3, 2, ("p",) * 10)


def test_long_names_lose_their_middle():
    assert clipped("a" * NAME) == "a" * NAME
    long = clipped("begin" + "x" * 10_000 + "end")
    assert len(long) == NAME
    assert long.startswith("beginx")
    assert long.endswith("xend")


RECIPES = [
    {},
    {"sources": [], "part_bytes": 3, "other": None},
    {"stages": [{"a": {}}, {"language": {"languages": {"en": 0.5}}}], "list": [1, 2]},
    {
        "stages": [
            {"a": {"k": {2: 0.5}, "empty": [], "words": ["1e-3", "yes", "2024-01-01", "# x"]}}
        ]
    },
    {"odd: key": [{"a": "two\nlines\n\n  indented"}], "1": [{}], "mixed": [{"a": 1}, "b"]},
    {"paths": [{"a": text} for text in HOSTILE]},
]


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_recipe_reads_back(recipe):
    assert parse_yaml(recipe_text(recipe), "recipe") == recipe


def test_the_recipe_is_written_a_line_an_entry():
    text = recipe_text({"sources": [{"name": "a", "paths": ["b"]}], "stages": [{"pii": {}}]})
    assert text == "sources:\n  - name: a\n    paths: [b]\nstages:\n  - pii: {}\n"
