"""Line charts as inline SVG, with bands, marks and a readout of the values at the pointer."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from configs.pages.axes import Axis, labels, linear_axis, log_axis, tight_axis
from configs.pages.colours import colour, dashes
from configs.pages.legend import line_legend

_WIDTH, _HEIGHT = 480, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 12, 8, 34
_FEW_POINTS = 40
"""A line of fewer points shows each of them."""


@dataclass(frozen=True)
class Line:
    """One line of a chart; all sequences have the same length, `x` rises."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    """A value that is not finite makes a gap."""
    low: Sequence[float] | None = None
    """With `high`: a band, the range of the values that a point stands for."""
    high: Sequence[float] | None = None
    number: int | None = None
    """Of its colour and dashes; None: its place in the chart."""


@dataclass(frozen=True)
class Mark:
    """A vertical line at `x`."""

    x: float
    title: str
    number: int = 3
    """Of its colour."""


@dataclass(frozen=True)
class Chart:
    """A chart of lines over one x."""

    title: str
    lines: Sequence[Line]
    x_name: str = "step"
    y_name: str = ""
    """The unit, beside the title."""
    marks: Sequence[Mark] = ()
    is_log: bool = False
    """A logarithmic y axis; values of 0 and less are gaps."""
    from_zero: bool = False
    x_range: tuple[float, float] | None = None
    """Least and greatest x, so that charts beside each other agree; None: those of the lines."""
    caption: str = ""


def line_chart(chart: Chart) -> str:
    """A figure with title, legend, the chart, and a line for the values at the pointer.

    Figures stand side by side inside ``<div class="plots">``, as many as there is space for.
    """
    numbers = [
        number if line.number is None else line.number for number, line in enumerate(chart.lines)
    ]
    unit = f' <span class="quiet">({escape(chart.y_name)})</span>' if chart.y_name else ""
    key = zip((line.name for line in chart.lines), numbers, strict=True)
    legend = line_legend(list(key)) if len(chart.lines) > 1 else ""
    caption = f"<figcaption>{escape(chart.caption)}</figcaption>" if chart.caption else ""
    data = json.dumps(_data(chart, _axes(chart)[0]), separators=(",", ":")).replace("<", "\\u003c")
    return (
        f"<figure><h3>{escape(chart.title)}{unit}</h3>{legend}"
        f'<div class="plot" tabindex="0" role="group" aria-label="{escape(chart.title)}: the arrow '
        f'keys read its values">{svg(chart)}'
        f'<script type="application/json">{data}</script></div>'
        f'<p class="readout" aria-live="polite"></p>{caption}</figure>'
    )


def svg(chart: Chart) -> str:
    """The chart alone, without title and legend."""
    x_axis, y_axis = _axes(chart)
    shapes = [*_grid(chart, x_axis, y_axis)]
    for mark in chart.marks:
        place = _x(x_axis, mark.x)
        shapes.append(
            f'<line x1="{place:.1f}" x2="{place:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}" '
            f'stroke="{colour(mark.number)}" stroke-dasharray="3 3">'
            f"<title>{escape(mark.title)}</title></line>"
        )
    for number, line in enumerate(chart.lines):
        shapes += _band_and_line(
            line, number if line.number is None else line.number, x_axis, y_axis
        )
    shapes.append(
        f'<line class="cursor" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}" stroke="var(--quiet)" '
        'visibility="hidden"/>'
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(chart.title)}">'
        f"{''.join(shapes)}</svg>"
    )


def _axes(chart: Chart) -> tuple[Axis, Axis]:
    xs = [x for line in chart.lines for x in line.x] + [mark.x for mark in chart.marks]
    values = [
        value
        for line in chart.lines
        for column in (line.y, line.low or (), line.high or ())
        for value in column
    ]
    y_axis = log_axis(values) if chart.is_log else None
    if y_axis is None:
        y_axis = linear_axis(values, from_zero=chart.from_zero)
    low, high = chart.x_range or (min(xs, default=0.0), max(xs, default=1.0))
    return tight_axis(low, high), y_axis


def _grid(chart: Chart, x_axis: Axis, y_axis: Axis) -> list[str]:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    shapes = []
    for tick, label in zip(y_axis.ticks, labels(y_axis.ticks), strict=True):
        y = _y(y_axis, tick)
        shapes.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        shapes.append(_text(_LEFT - 6, y + 4, label, "end"))
    for tick, label in zip(x_axis.ticks, labels(x_axis.ticks), strict=True):
        x = _x(x_axis, tick)
        shapes.append(
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 4}"/>'
        )
        shapes.append(_text(x, bottom + 16, label, "middle"))
    shapes.append(_text((_LEFT + right) / 2, bottom + 31, chart.x_name, "middle"))
    return shapes


def _band_and_line(line: Line, number: int, x_axis: Axis, y_axis: Axis) -> list[str]:
    places = [_x(x_axis, x) for x in line.x]
    shapes = []
    if line.low is not None and line.high is not None:
        shapes += [
            f'<path d="{_band(run, places, line.low, line.high, y_axis)}" '
            f'fill="{colour(number)}" fill-opacity="0.2" stroke="{colour(number)}" '
            'stroke-width="0.6" stroke-opacity="0.45"/>'
            for run in _runs(line.low, y_axis)
        ]
    for run in _runs(line.y, y_axis):
        points = " ".join(f"{places[k]:.1f},{_y(y_axis, line.y[k]):.1f}" for k in run)
        shapes.append(
            f'<polyline points="{points}" fill="none" stroke="{colour(number)}" '
            f'stroke-width="1.5" stroke-linejoin="round" stroke-dasharray="{dashes(number)}"/>'
        )
        if len(line.x) < _FEW_POINTS or len(run) == 1:
            shapes += [
                f'<circle cx="{places[k]:.1f}" cy="{_y(y_axis, line.y[k]):.1f}" r="2" '
                f'fill="{colour(number)}"/>'
                for k in run
            ]
    return shapes


def _runs(values: Sequence[float], axis: Axis) -> list[range]:
    """The longest stretches of values that can be drawn."""
    drawn = [math.isfinite(value) and (value > 0 or not axis.is_log) for value in values]
    edges = [0, *(k for k in range(1, len(drawn)) if drawn[k] != drawn[k - 1]), len(drawn)]
    return [range(first, end) for first, end in pairwise(edges) if first < end and drawn[first]]


def _band(
    run: range, places: Sequence[float], low: Sequence[float], high: Sequence[float], axis: Axis
) -> str:
    there = [f"{places[k]:.1f} {_y(axis, high[k]):.1f}" for k in run]
    back = [f"{places[k]:.1f} {_y(axis, low[k]):.1f}" for k in reversed(run)]
    return "M" + " L".join(there + back) + "Z"


def _data(chart: Chart, x_axis: Axis) -> dict[str, object]:
    """What the script of the page reads."""
    lines: list[dict[str, object]] = []
    for line in chart.lines:
        shown: dict[str, object] = {"name": line.name, "x": list(line.x), "y": _json(line.y)}
        if line.low is not None and line.high is not None:
            shown |= {"low": _json(line.low), "high": _json(line.high)}
        lines.append(shown)
    return {
        "x_name": chart.x_name,
        "left": _LEFT,
        "width": _WIDTH - _LEFT - _RIGHT,
        "from": x_axis.low,
        "to": x_axis.high,
        "series": lines,
    }


def _json(values: Sequence[float]) -> list[float | None]:
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in values]


def _x(axis: Axis, value: float) -> float:
    return _LEFT + axis.share(value) * (_WIDTH - _LEFT - _RIGHT)


def _y(axis: Axis, value: float) -> float:
    return _TOP + (1 - axis.share(value)) * (_HEIGHT - _TOP - _BOTTOM)


def _text(x: float, y: float, content: str, anchor: str) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text class="axis" {place}>{escape(content)}</text>'
