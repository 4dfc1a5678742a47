"""Small charts as inline SVG, without external files: bars and histograms."""

from collections.abc import Mapping, Sequence
from html import escape

COLOURS = ("#35618e", "#c8823b", "#5b8c5a", "#a14f5b", "#7a6a9b", "#4c9ca3", "#8a7b52")
_WIDTH, _ROW, _LABEL, _GAP = 720, 18, 230, 4


def bars(series: Mapping[str, Mapping[str, float]], unit: str = "") -> str:
    """Horizontal stacked bars: a row for each key of `series`, a colour for each inner key.

    `unit` follows the totals.
    """
    names = list(dict.fromkeys(name for values in series.values() for name in values))
    greatest = max((sum(values.values()) for values in series.values()), default=0) or 1
    scale = (_WIDTH - _LABEL - 110) / greatest
    shapes = []
    for row, (label, values) in enumerate(series.items()):
        y, x = row * (_ROW + _GAP), float(_LABEL)
        shapes.append(_text(_LABEL - 8, y, label, "end"))
        for name in names:
            width = values.get(name, 0) * scale
            if width > 0:
                title = f"<title>{escape(f'{label}, {name}')}: {values[name]:,.10g}</title>"
                colour = COLOURS[names.index(name) % len(COLOURS)]
                shapes.append(
                    f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{_ROW}" '
                    f'fill="{colour}">{title}</rect>'
                )
                x += width
        total = sum(values.values())
        shown = f"{total:,.0f}" if total >= 1000 else f"{total:.4g}"
        shapes.append(_text(x + 6, y, f"{shown}{unit}", "start"))
    legend = "" if len(names) < 2 else _legend(names)
    return legend + _svg(shapes, len(series) * (_ROW + _GAP))


def histogram(counts: Mapping[str, Sequence[int]], labels: Sequence[str]) -> str:
    """Columns side by side, as shares: a colour for each key of `counts`, a column per label."""
    height, width = 150, _WIDTH / max(len(labels), 1)
    shares = {
        name: [value / max(sum(values), 1) for value in values] for name, values in counts.items()
    }
    greatest = max((max(values, default=0) for values in shares.values()), default=0) or 1
    column = (width - 6) / max(len(shares), 1)
    shapes = []
    for number, (name, values) in enumerate(shares.items()):
        for place, share in enumerate(values):
            tall = share / greatest * height
            x = place * width + number * column
            title = f"<title>{escape(name)}, {escape(labels[place])}: {share:.1%}</title>"
            shapes.append(
                f'<rect x="{x:.1f}" y="{height - tall:.1f}" width="{column:.1f}" '
                f'height="{tall:.1f}" fill="{COLOURS[number % len(COLOURS)]}">{title}</rect>'
            )
    shapes += [
        _text(place * width + width / 2, height + 2, label, "middle")
        for place, label in enumerate(labels)
    ]
    return _legend(list(counts)) + _svg(shapes, height + _ROW + _GAP)


def _legend(names: Sequence[str]) -> str:
    entries = "".join(
        f'<span><i style="background:{COLOURS[number % len(COLOURS)]}"></i>{escape(name)}</span>'
        for number, name in enumerate(names)
    )
    return f'<p class="legend">{entries}</p>'


def _text(x: float, y: float, content: str, anchor: str) -> str:
    return (
        f'<text x="{x:.1f}" y="{y + _ROW - 5:.1f}" text-anchor="{anchor}">{escape(content)}</text>'
    )


def _svg(shapes: Sequence[str], height: float) -> str:
    content = "".join(shapes)
    return f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" role="img">{content}</svg>'
