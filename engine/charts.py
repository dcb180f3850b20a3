"""Curves over steps, as SVG for a page and as PNG for anywhere else.

The SVG takes its colours from the page's style sheet (report.css), so that one drawing serves light
and dark; every point it shows travels with it, for report.js to read out under the pointer.
"""

from __future__ import annotations

import html
import io
import itertools
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

Point = tuple[float, float]  # step, value
Role = Literal["train", "faint", "validation"]

MAX_POINTS = 600  # of one curve: more than a screen shows, few enough to keep a page small


@dataclass(frozen=True, kw_only=True)
class Series:
    """One curve. `faint` ones are context: thin, pale, without a label."""

    name: str
    points: Sequence[Point]
    role: Role = "train"


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Curves over the same steps; `reference` is a level to compare them with."""

    title: str
    series: Sequence[Series]
    reference: tuple[str, float] | None = None
    from_zero: bool = False
    width: int = 330
    height: int = 190
    format: Callable[[float], str] = field(default=lambda value: f"{value:.4g}")

    @cached_property
    def steps(self) -> tuple[float, float]:
        """First and last step shown; a run from its start is shown from 0."""
        xs = [x for series in self.series for x, _ in series.points]
        if not xs:
            return 0.0, 1.0
        low, high = min(xs), max(xs)
        return (0.0 if low <= 0.05 * high else low), high

    @cached_property
    def values(self) -> tuple[float, float]:
        """Lowest and highest value shown: all of a short curve, all but outliers of a long one."""
        lows, highs = [], []
        for series in self.series:
            ordered = sorted(y for _, y in series.points)
            if ordered:
                outliers = len(ordered) // 200
                lows.append(ordered[0])
                highs.append(ordered[len(ordered) - 1 - outliers])
        if self.reference is not None:
            lows.append(self.reference[1])
            highs.append(self.reference[1])
        low, high = (min(lows), max(highs)) if lows else (0.0, 1.0)
        if self.from_zero:
            low = min(0.0, low)
        room = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
        return (low if self.from_zero else low - room), high + room


def smooth(points: Sequence[Point]) -> list[Point]:
    """Mean over the neighbours within a fiftieth of the curve, as many before as after.

    So it does not lag behind a loss that falls; towards the ends fewer neighbours are left.
    """
    reach = len(points) // 50
    sums = [0.0, *itertools.accumulate(y for _, y in points)]
    curve = []
    for i, (x, _) in enumerate(points):
        near = min(reach, i, len(points) - 1 - i)
        curve.append((x, (sums[i + near + 1] - sums[i - near]) / (2 * near + 1)))
    return curve


def thin(points: Sequence[Point], limit: int = MAX_POINTS) -> list[Point]:
    """At most about `limit` points, the lowest and highest of each stretch and both ends kept."""
    if len(points) <= limit:
        return list(points)
    stretch = math.ceil(len(points) / (limit / 2))
    kept = {0, len(points) - 1}
    for start in range(0, len(points), stretch):
        inside = range(start, min(start + stretch, len(points)))
        kept.add(min(inside, key=lambda i: points[i][1]))
        kept.add(max(inside, key=lambda i: points[i][1]))
    return [points[i] for i in sorted(kept)]


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers between low and high, some `about` of them."""
    if not high > low:
        return [low]
    span = high - low
    unit = 10.0 ** math.floor(math.log10(span / about))
    step = min((m * unit for m in (1, 2, 2.5, 5, 10)), key=lambda step: abs(span / step - about))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


# --- SVG ----------------------------------------------------------------------


@dataclass(frozen=True)
class _Frame:
    """Where the plot lies in a drawing, and how data become coordinates."""

    chart: Chart
    left: float
    top: float
    right: float
    bottom: float

    def x(self, step: float) -> float:
        low, high = self.chart.steps
        share = (step - low) / (high - low) if high > low else 0.5
        return self.left + share * (self.right - self.left)

    def y(self, value: float) -> float:
        low, high = self.chart.values
        share = min(1.2, max(-0.2, (value - low) / (high - low)))
        return self.bottom - share * (self.bottom - self.top)


def to_svg(chart: Chart) -> str:
    """The chart as an <svg> element."""
    labels = [chart.format(tick) for tick in _value_ticks(chart)]
    left = 10 + 6.6 * max(map(len, labels))
    frame = _Frame(chart, left, 10, chart.width - 12, chart.height - 26)
    clip = "clip-" + re.sub(r"\W+", "-", chart.title.lower())
    body = [
        f'<clipPath id="{clip}"><rect x="{left:.1f}" y="4" ',
        f'width="{frame.right - left:.1f}" height="{frame.bottom - 3:.1f}"/></clipPath>',
        *_grid(frame),
        *_reference(frame),
        f'<g clip-path="url(#{clip})">',
        *(_curve(frame, series) for series in chart.series),
        "</g>",
        *_names(frame),
        '<g class="cursor"></g>',
    ]
    return (
        f'<svg class="chart" viewBox="0 0 {chart.width} {chart.height}" role="img" '
        f'aria-label="{html.escape(chart.title)}" data-chart="{html.escape(_payload(frame))}">'
        + "".join(body)
        + "</svg>"
    )


def _value_ticks(chart: Chart) -> list[float]:
    return ticks(*chart.values, 4 if chart.height < 300 else 8)


def _grid(frame: _Frame) -> list[str]:
    chart, parts = frame.chart, []
    for tick in _value_ticks(chart):
        y = frame.y(tick)
        parts.append(f'<path class="grid" d="M{frame.left:.1f} {y:.1f}H{frame.right:.1f}"/>')
        parts.append(
            f'<text class="tick" x="{frame.left - 8:.1f}" y="{y + 3.5:.1f}" text-anchor="end">'
            f"{html.escape(chart.format(tick))}</text>"
        )
    for tick in ticks(*chart.steps, 4 if chart.width < 500 else 8):
        parts.append(
            f'<text class="tick" x="{frame.x(tick):.1f}" y="{frame.bottom + 18:.1f}" '
            f'text-anchor="middle">{tick:,.0f}</text>'
        )
    return parts


def _reference(frame: _Frame) -> list[str]:
    if frame.chart.reference is None:
        return []
    name, value = frame.chart.reference
    label, y = html.escape(f"{name} {frame.chart.format(value)}"), frame.y(value)
    return [
        f'<path class="reference" d="M{frame.left:.1f} {y:.1f}H{frame.right:.1f}"/>',
        f'<text class="name reference" x="{frame.right:.1f}" y="{y - 7:.1f}" ',
        f'text-anchor="end">{label}</text>',
    ]


def _curve(frame: _Frame, series: Series) -> str:
    points = [(frame.x(x), frame.y(y)) for x, y in thin(series.points)]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) if points else ""
    drawn = f'<path class="curve {series.role}" d="{path}"/>'
    if series.role == "validation" or len(points) == 1:
        drawn += "".join(
            f'<circle class="dot {series.role}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>'
            for x, y in points[:: max(1, len(points) // 40)]
        )
    return drawn


def _names(frame: _Frame) -> list[str]:
    """A legend, where several curves need telling apart."""
    named = [series for series in frame.chart.series if series.role != "faint"]
    if len(named) < 2:
        return []
    x, parts = frame.right, []
    for series in reversed(named):
        x -= 6.7 * len(series.name)
        parts.append(
            f'<text class="name" x="{x:.1f}" y="{frame.top + 12:.1f}">{html.escape(series.name)}'
            f'</text><path class="curve {series.role}" d="M{x - 26:.1f} {frame.top + 8:.1f}h18"/>'
        )
        x -= 46
    return parts


def _payload(frame: _Frame) -> str:
    """What report.js needs to answer the pointer: the frame, the scale, the readable curves."""
    chart = frame.chart
    curves = [
        {
            "name": series.name,
            "role": series.role,
            "points": [[x, y, chart.format(y)] for x, y in thin(series.points, MAX_POINTS // 2)],
        }
        for series in chart.series
        if series.role != "faint"
    ]
    box = [round(v, 1) for v in (frame.left, frame.top, frame.right, frame.bottom)]
    scale = [*chart.steps, *chart.values]
    return json.dumps({"box": box, "scale": scale, "series": curves}, separators=(",", ":"))


# --- PNG ----------------------------------------------------------------------

COLOURS = {"train": "#2f5fd0", "faint": "#2f5fd0", "validation": "#d4572a"}
INK, SOFT, LINE, PAPER = "#1c1e21", "#6b7076", "#e6e6e1", "#fdfdfb"


def to_png(chart: Chart, subtitle: str = "") -> bytes:
    """The chart as a PNG of 1600 x 900, drawn by matplotlib without a display."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=200, facecolor=PAPER)
    axes = figure.add_axes((0.075, 0.11, 0.895, 0.73), facecolor=PAPER)
    for series in chart.series:
        faint = series.role == "faint"
        xs, ys = [x for x, _ in series.points], [y for _, y in series.points]
        axes.plot(
            xs,
            ys,
            color=COLOURS[series.role],
            alpha=0.25 if faint else 1.0,
            linewidth=0.8 if faint else 1.8,
            marker="o" if series.role == "validation" or len(xs) == 1 else None,
            markersize=4,
            label=None if faint else series.name,
        )
    if chart.reference is not None:
        name, value = chart.reference
        axes.axhline(value, color=SOFT, linewidth=1, linestyle=(0, (4, 3)))
        axes.annotate(
            f"{name} {chart.format(value)}",
            (1, value),
            xycoords=("axes fraction", "data"),
            xytext=(0, 5),
            textcoords="offset points",
            ha="right",
            color=SOFT,
            fontsize=9,
            bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1.0},
        )
    low, high = chart.steps
    margin = 0.01 * (high - low) or 1.0
    axes.set_xlim(low - margin, high + margin)
    axes.set_ylim(*chart.values)
    axes.grid(axis="y", color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=SOFT, length=0, labelsize=9)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(LINE)
    axes.set_xlabel("step", color=SOFT, fontsize=9)
    if sum(series.role != "faint" for series in chart.series) > 1:
        axes.legend(frameon=False, fontsize=9, labelcolor=INK, loc="upper right")
    figure.text(0.03, 0.925, chart.title, color=INK, fontsize=13, fontweight="bold")
    figure.text(0.03, 0.872, subtitle, color=SOFT, fontsize=9)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", facecolor=PAPER)
    return stream.getvalue()
