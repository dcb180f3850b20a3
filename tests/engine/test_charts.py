"""Curves keep what matters, and drawings stay well formed whatever the numbers."""

from __future__ import annotations

import io
import json
import math
import xml.etree.ElementTree as ET

import pytest
from PIL import Image

from trivium.engine.charts import Chart, Series, smooth, thin, ticks, to_png, to_svg

CURVE = [(float(step), 8 / step) for step in range(1, 5001)]


def chart(*points, **settings) -> Chart:
    settings = {"title": "loss & more", **settings}
    return Chart(series=[Series(name="training", points=list(points))], **settings)


def test_smoothing_keeps_a_line_and_a_level():
    line = [(float(x), 3.0 * x) for x in range(200)]
    assert [y for _, y in smooth(line)] == pytest.approx([y for _, y in line])


def test_smoothing_takes_noise_away_and_does_not_lag():
    noisy = [(float(x), 1000 - x + 20 * (-1) ** x) for x in range(1000)]
    smoothed = smooth(noisy)
    assert max(abs(y - (1000 - x)) for x, y in smoothed[30:-30]) < 1
    assert smooth([(1.0, 5.0)]) == [(1.0, 5.0)]
    assert smooth([]) == []


def test_thinning_keeps_ends_and_spikes():
    points = [*CURVE[:2500], (2500.5, 99.0), *CURVE[2500:]]
    kept = thin(points)
    assert len(kept) <= 610
    assert (2500.5, 99.0) in kept
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert kept == sorted(kept)
    assert thin(CURVE[:10]) == CURVE[:10]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (2.9, 10.5, [4, 6, 8, 10]),
        (0, 0.001, [0, 0.0002, 0.0004, 0.0006, 0.0008, 0.001]),
        (-1, 1, [-1, -0.5, 0, 0.5, 1]),
        (3, 3, [3]),
    ],
)
def test_ticks_are_round(low, high, expected):
    assert ticks(low, high, 5) == pytest.approx(expected)


def test_outliers_do_not_set_the_scale_of_a_long_curve():
    points = [(float(x), 1e6 if x == 500 else 1.0) for x in range(1000)]
    assert chart(*points).values[1] < 2
    assert chart((1.0, 1.0), (2.0, 1e6)).values[1] > 1e6


@pytest.mark.parametrize(
    "points",
    [(), ((1.0, 2.0),), ((5.0, 0.0), (6.0, 0.0)), ((1.0, 1e-12), (2.0, 1e12)), CURVE],
)
@pytest.mark.parametrize("reference", [None, ("unigram <entropy>", 6.83)])
def test_svg_is_well_formed_and_finite(points, reference):
    text = to_svg(chart(*points, reference=reference))
    root = ET.fromstring(text)
    assert "nan" not in text.lower()
    assert "inf" not in text.replace("info", "").lower()
    payload = json.loads(root.attrib["data-chart"])
    assert all(math.isfinite(value) for value in payload["box"] + payload["scale"])


def test_svg_names_curves_only_where_there_are_several():
    one = to_svg(chart(*CURVE[:5]))
    assert ">training</text>" not in one
    both = [
        Series(name="training", points=CURVE[:5]),
        Series(name="validation", points=CURVE[2:4], role="validation"),
    ]
    two = to_svg(Chart(title="loss", series=both))
    assert ">training</text>" in two
    assert ">validation</text>" in two


def test_png_is_a_picture():
    png = to_png(chart(*CURVE[:100], reference=("unigram entropy", 4.0)), "100 steps")
    assert Image.open(io.BytesIO(png)).size == (1600, 900)
