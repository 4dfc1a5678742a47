"""Tables of a page."""

import re
from collections.abc import Sequence
from html import escape

_ONE = r"[-+−]?[\d,.]+(e[-+]?\d+)?\s?%?"
_NUMBER = re.compile(rf"{_ONE}( ± {_ONE})?( \*)?")
"""With the half width of an interval, and a mark, where there are such."""


def table(head: Sequence[str], rows: Sequence[Sequence[str]], row_headers: bool = False) -> str:
    """A table that scrolls where it is too wide; columns of numbers are aligned right.

    `row_headers`: the first cell of a row names it.
    """
    marks = [
        ' class="number"' if any(column) and all(map(_is_number, column)) else ""
        for column in (zip(*rows, strict=True) if rows else [()] * len(head))
    ]

    def line(cells: Sequence[str], tags: Sequence[str]) -> str:
        inner = (
            f"<{tag}{mark}>{escape(cell)}</{tag.split()[0]}>"
            for cell, mark, tag in zip(cells, marks, tags, strict=True)
        )
        return "<tr>" + "".join(inner) + "</tr>"

    columns = len(head)
    first = 'th scope="row"' if row_headers else "td"
    top = line(head, ['th scope="col"'] * columns)
    body = "".join(line(row, [first, *["td"] * (columns - 1)]) for row in rows)
    content = f"<thead>{top}</thead><tbody>{body}</tbody>"
    return f'<div class="scroll" tabindex="0"><table>{content}</table></div>'


def _is_number(cell: str) -> bool:
    return cell in ("", "–") or _NUMBER.fullmatch(cell) is not None
