"""How the parts of the data benchmark take turns."""

from __future__ import annotations

import pytest

from tests.tools.letters_part import PART
from tools.benchmarks.turns import Asked, Ratio, compare, spread
from trivium.data_pipeline.errors import InputError


def test_every_second_pass_goes_backwards_and_who_cannot_run_is_left_out(capsys):
    found = compare(PART, Asked(passes=2))
    printed = capsys.readouterr().out
    assert "missing is left out: no_such_module is not installed (pip install it)" in printed
    assert "broken is left out: ValueError: it does not run here" in printed
    assert "| all | tbbt |" in printed
    assert "trivium / b: " in printed
    assert "(bar: at least 1e+09) MISSED" in printed
    assert "bars: 0 of 1 met; missed: trivium / b; a line" in printed
    assert [one.keys() for one in found["passes"]] == [{"trivium", "b"}] * 2
    assert all(turn["cpu"] > 0 for one in found["passes"] for turn in one.values())
    (ratio,) = found["ratios"].values()
    assert len(ratio["values"]) == 2
    assert not ratio["holds"]


def test_a_tiny_run_is_one_pass_and_held_against_nothing(capsys):
    found = compare(PART, Asked(tiny=True, peers=("b",)))
    printed = capsys.readouterr().out
    assert "| all | tb |" in printed
    assert "bar" not in printed
    assert "left out" not in printed
    assert found["ratios"]["trivium / b"]["holds"]


def test_peers_that_nobody_knows_are_refused():
    with pytest.raises(InputError, match="peers: no 'c'; known: trivium, b, broken, missing"):
        compare(PART, Asked(peers=("c",)))
    with pytest.raises(InputError, match="passes 0: 1 or more"):
        Asked(passes=0)


def test_bars_are_held_against_medians():
    assert Ratio("x", [1.0, 3.0, 2.0], bar=2.0).holds
    assert not Ratio("x", [1.0, 3.0, 2.0], bar=2.1).holds
    assert Ratio("x", [1.0, 3.0, 2.0], bar=2.0, least=False).holds
    assert not Ratio("x", [1.0, 3.0, 2.0], bar=1.9, least=False).holds
    assert spread([3.0, 1.0, 2.0]) == "2 [1, 3]"
    assert spread([0.123456]) == "0.123"
