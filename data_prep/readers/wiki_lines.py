"""What wiki markup says by lines: headings, lists, apostrophes of bold and italic text.

XML holds no control characters, so these mark in a text what its lines say.
"""

import html
import re
from collections.abc import Iterator

DROPPED = "\4"
"""Stands for what was removed."""

_LITERAL, _APOSTROPHE, _EQUALS = "\0", "\2", "\3"
_RESTORED = {ord(_LITERAL): None, ord(_APOSTROPHE): "'", ord(_EQUALS): "=", ord(DROPPED): None}
_NOTHING = f"{_LITERAL}{DROPPED} \t"
_LISTS = "*#:;"
_QUOTES = re.compile("'{2,}")
_BRACKETS = re.compile(rf" ?[(（][ ,;:、，；：{DROPPED}]*[)）]?")
_MANY_NEWLINES = re.compile(r"\n{3,}")
_MAX_LEVEL = 6


def literal(text: str) -> str:
    """`text` without its entities, as text in which nothing is markup."""
    text = html.unescape(text) if "&" in text else text
    text = _LITERAL + text.replace("'", _APOSTROPHE).replace("=", _EQUALS)
    return text.replace("\n", f"\n{_LITERAL}")


def joined_lines(text: str) -> str:
    """The lines of `text` without marks, and without headings that nothing follows."""
    if DROPPED in text:
        text = _BRACKETS.sub(_without_empty_brackets, text)
    lines = _with_headings_of_text(text.split("\n"))
    return _MANY_NEWLINES.sub("\n\n", "\n".join(lines).translate(_RESTORED)).strip()


def _with_headings_of_text(lines: list[str]) -> Iterator[str]:
    """The lines without marks; a heading is held back until there is text in its section."""
    headings: list[tuple[int, str]] = []
    for line in lines:
        first = line[:1]
        if first == "=" and (heading := _heading(line)) is not None:
            while headings and headings[-1][0] >= heading[0]:
                headings.pop()
            headings.append(heading)
            continue
        if first and first in _LISTS:
            line = line.lstrip(_LISTS)
            if not line.strip(_NOTHING):
                continue
        elif line.startswith("----"):
            line = line.lstrip("-")
        line = _without_quotes(line)
        if headings and line.strip(_NOTHING):
            for _, heading_text in headings:
                yield ""
                yield heading_text
            headings = []
        if not headings:
            yield line


def _heading(line: str) -> tuple[int, str] | None:
    """(level, text) of ``== text ==``."""
    stripped = line.rstrip(_NOTHING)
    content = stripped.lstrip("=")
    inside = content.rstrip("=")
    level = min(len(stripped) - len(content), len(content) - len(inside), _MAX_LEVEL)
    if level == 0 or not inside.strip(_NOTHING):
        return None
    return level, _without_quotes(inside.strip(_NOTHING))


def _without_quotes(line: str) -> str:
    """A line without the apostrophes that make text italic (2), bold (3) or both (5).

    As in MediaWiki, one of a run of four is text. Where both kinds have no end, the first
    apostrophe of one run of three is text, as in ``l'''eau''``: of that after a word of one letter
    if there is one, else of that after a longer word.
    """
    if "''" not in line:
        return line
    pieces = _QUOTES.split(line)
    lengths = [len(run) for run in _QUOTES.findall(line)]
    kept = [0 if n in (2, 3, 5) else n - 3 if n == 4 else n - 5 for n in lengths]
    kinds = [min(n - keep, 5) for n, keep in zip(lengths, kept, strict=True)]
    num_italic, num_bold = (sum(kind in (n, 5) for kind in kinds) for n in (2, 3))
    if num_italic % 2 and num_bold % 2:
        bold = [place for place, kind in enumerate(kinds) if kind == 3]
        place = min(bold, key=lambda at: (_rank(pieces[at]), at), default=None)
        if place is not None:
            kept[place] += 1
    return pieces[0] + "".join(
        "'" * keep + piece for keep, piece in zip(kept, pieces[1:], strict=True)
    )


def _rank(before: str) -> int:
    """How likely an apostrophe after this text is no markup: 0 after a word of one letter."""
    if before[-1:] == " ":
        return 2
    return 0 if before[-2:-1] == " " else 1


def _without_empty_brackets(found: re.Match[str]) -> str:
    """Brackets of which all content was removed; what separates it from the rest."""
    text = found.group()
    if DROPPED not in text:
        return text
    return "" if text[-1] in ")）" else text[: 2 if text[0] == " " else 1]
