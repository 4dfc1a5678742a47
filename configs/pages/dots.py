"""Dot charts with intervals as inline SVG: a row for each group, a dot for each series in it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from configs.pages.axes import labels, linear_axis
from configs.pages.colours import colour

_WIDTH, _LABEL, _RIGHT, _TOP, _BOTTOM = 480, 150, 16, 6, 22
_DOT, _GAP, _RADIUS = 12, 8, 4
_LABEL_CHARACTERS = 20


@dataclass(frozen=True)
class Dot:
    """One value, and perhaps the ends of its interval."""

    value: float
    shown: str
    """The value as text, for the pointer."""
    low: float | None = None
    high: float | None = None


def dot_chart(
    title: str,
    rows: Mapping[str, Sequence[Dot | None]],
    names: Sequence[str],
    caption: str = "",
) -> str:
    """A figure: for each row a dot of every series of `names` that has one there.

    Figures stand side by side inside ``<div class="plots">``; the colours are those of
    `pages.legend.legend` of `names`.
    """
    values = [
        end
        for dots in rows.values()
        for dot in dots
        if dot is not None
        for end in (dot.value, dot.low, dot.high)
        if end is not None
    ]
    axis = linear_axis(values, most_ticks=5)
    places = _WIDTH - _LABEL - _RIGHT

    def x(value: float) -> float:
        return _LABEL + axis.share(value) * places

    tall = len(names) * _DOT + _GAP
    bottom = _TOP + len(rows) * tall
    shapes = []
    for tick, label in zip(axis.ticks, labels(axis.ticks), strict=True):
        at = f"{x(tick):.1f}"
        shapes.append(f'<line class="grid" x1="{at}" x2="{at}" y1="{_TOP}" y2="{bottom}"/>')
        shapes.append(
            f'<text class="axis" x="{at}" y="{bottom + 15}" text-anchor="middle">{label}</text>'
        )
    for number, (row, dots) in enumerate(rows.items()):
        top = _TOP + number * tall
        name = row if len(row) <= _LABEL_CHARACTERS else f"{row[: _LABEL_CHARACTERS - 1]}…"
        shapes.append(
            f'<text x="{_LABEL - 8}" y="{top + tall / 2 + 4:.1f}" text-anchor="end">{escape(name)}'
            f"<title>{escape(row)}</title></text>"
        )
        for place, dot in enumerate(dots):
            if dot is not None:
                y = top + _GAP / 2 + (place + 0.5) * _DOT
                what = f"{row}, {names[place]}: {dot.shown}"
                shapes.append(_dot(dot, what, place, y, x(dot.value), _ends(dot, x)))
    content = "".join(shapes)
    note = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return (
        f"<figure><h3>{escape(title)}</h3>"
        f'<svg viewBox="0 0 {_WIDTH} {bottom + _BOTTOM}" role="img" aria-label="{escape(title)}">'
        f"{content}</svg>{note}</figure>"
    )


def _ends(dot: Dot, x: Callable[[float], float]) -> tuple[float, float] | None:
    return None if dot.low is None or dot.high is None else (x(dot.low), x(dot.high))


def _dot(
    dot: Dot, what: str, number: int, y: float, x: float, ends: tuple[float, float] | None
) -> str:
    line = ""
    if ends is not None:
        line = (
            f'<line x1="{ends[0]:.1f}" x2="{ends[1]:.1f}" y1="{y:.1f}" y2="{y:.1f}" '
            f'stroke="{colour(number)}" stroke-width="2"/>'
        )
    return (
        f'<g><title>{escape(what)}</title>{line}<circle cx="{x:.1f}" cy="{y:.1f}" r="{_RADIUS}" '
        f'fill="{colour(number)}"/></g>'
    )
