"""Values that name their own kind; tests/engine/test_config.py tries the rest of the reader."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from trivium.data_pipeline.config_tree import OneOf, dump_yaml, load
from trivium.data_pipeline.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Cut:
    at: int = 10

    def __post_init__(self) -> None:
        if self.at < 0:
            raise InputError(f"at {self.at}: 0 or more")


@dataclass(frozen=True, kw_only=True)
class Fold:
    upper: bool


class Step(OneOf):
    @classmethod
    def known(cls) -> Mapping[str, type]:
        return {"cut": Cut, "fold": Fold}


@dataclass(frozen=True, kw_only=True)
class Plan:
    steps: tuple[Step, ...] = ()
    last: Step | None = None


def write(folder: Path, text: str) -> Path:
    path = folder / "plan.yaml"
    path.write_text(text)
    return path


def test_names_alone_and_with_keys_in_order(tmp_path):
    path = write(tmp_path, "steps:\n  - cut\n  - fold: {upper: true}\n  - cut:\n      at: 3\n")
    plan = load(Plan, path, ["last={fold: {upper: false}}"])
    assert [step.value for step in plan.steps] == [Cut(), Fold(upper=True), Cut(at=3)]
    assert plan.last == Step("fold", Fold(upper=False))
    again = write(tmp_path, dump_yaml(plan))
    assert load(Plan, again) == plan


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("steps: [cutt]", ["steps.0", "'cutt'", "did you mean cut?"]),
        ("steps: [sharpen]", ["'sharpen'", "known: cut, fold"]),
        ("steps: [{cut: {att: 1}}]", ["unknown key steps.0.cut.att", "steps.0.cut.at"]),
        ("steps: [{cut: {at: x}}]", ["steps.0.cut.at", "an integer"]),
        ("steps: [{cut: {at: -1}}]", ["steps.0.cut", "at -1: 0 or more"]),
        ("steps: [fold]", ["steps.0.fold.upper", "is required"]),
        ("steps: [{cut: {}, fold: {upper: true}}]", ["steps.0", "a name or"]),
        ("steps: [3]", ["steps.0", "a name or"]),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, text, parts):
    with pytest.raises(InputError) as caught:
        load(Plan, write(tmp_path, text))
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(tmp_path))
    for part in parts:
        assert part in message


@dataclass(frozen=True, kw_only=True)
class Part:
    name: str
    size: float = 1.0

    def __post_init__(self) -> None:
        if not self.name:
            raise InputError("name: empty")


@dataclass(frozen=True, kw_only=True)
class Whole:
    parts: tuple[Part | str, ...] = ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("parts: [{nam: a}]", "unknown key parts.0.nam; did you mean parts.0.name?"),
        ("parts: [x, {size: 2}]", "parts.1.name: is required; add name: value"),
        ("parts: [{name: a, size: big}]", "parts.0.size: got 'big' (str), expected a number"),
        ("parts: [{name: 7}]", "parts.0.name: got 7 (int), expected text; quote it"),
        ("parts: [{name: ''}]", "parts.0: name: empty"),
        ("parts: {name: a}", "each entry a section with the keys name, size or text"),
    ],
)
def test_a_section_in_a_list_beside_texts_says_what_is_wrong_in_it(tmp_path, text, message):
    with pytest.raises(InputError) as caught:
        load(Whole, write(tmp_path, text))
    assert message in str(caught.value)
