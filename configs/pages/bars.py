"""Small charts as inline SVG, without external files: bars and histograms."""

from collections.abc import Mapping, Sequence
from html import escape

from configs.pages.colours import colour
from configs.pages.legend import legend

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
                shapes.append(
                    f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{_ROW}" '
                    f'fill="{colour(names.index(name))}">{title}</rect>'
                )
                x += width
        total = sum(values.values())
        shown = f"{total:,.0f}" if total >= 1000 else f"{total:.4g}"
        shapes.append(_text(x + 6, y, f"{shown}{unit}", "start"))
    return (legend(names) if len(names) > 1 else "") + _svg(shapes, len(series) * (_ROW + _GAP))


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
                f'height="{tall:.1f}" fill="{colour(number)}">{title}</rect>'
            )
    shapes += [
        _text(place * width + width / 2, height + 2, label, "middle")
        for place, label in enumerate(labels)
    ]
    return legend(list(counts)) + _svg(shapes, height + _ROW + _GAP)


def _text(x: float, y: float, content: str, anchor: str) -> str:
    return (
        f'<text x="{x:.1f}" y="{y + _ROW - 5:.1f}" text-anchor="{anchor}">{escape(content)}</text>'
    )


def _svg(shapes: Sequence[str], height: float) -> str:
    content = "".join(shapes)
    svg = f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" role="img" class="wide">{content}</svg>'
    return f'<div class="scroll" tabindex="0">{svg}</div>'
