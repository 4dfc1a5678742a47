"""The legend of a chart, as HTML above it, so that it wraps on narrow screens."""

from collections.abc import Sequence
from html import escape

from configs.pages.colours import colour, dashes


def legend(names: Sequence[str]) -> str:
    """The names of series in their order, each beside the colour of its bars."""
    entries = "".join(
        f'<span><i style="background:{colour(number)}"></i>{escape(name)}</span>'
        for number, name in enumerate(names)
    )
    return f'<p class="legend">{entries}</p>'


def line_legend(entries: Sequence[tuple[str, int]]) -> str:
    """(name, number of its colour and dashes) of each series, beside a piece of its line."""
    items = "".join(
        '<span><svg viewBox="0 0 24 10" class="key" aria-hidden="true"><line x1="0" x2="24" y1="5" '
        f'y2="5" stroke="{colour(number)}" stroke-width="2.5" '
        f'stroke-dasharray="{dashes(number)}"/></svg>{escape(name)}</span>'
        for name, number in entries
    )
    return f'<p class="legend">{items}</p>'
