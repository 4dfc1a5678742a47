"""The marks of wiki markup: how they are found, and what is open and not closed yet."""

import re

TOKEN = re.compile(
    r"<!--|</?[A-Za-z][A-Za-z0-9]*\b[^<>]*>"
    r"|\{\|(?!\})|\{{2,}|\}{2,}|-\{(?!\{)|\}-"
    r"|\[\[|\]|\[(?=(?:https?:|ftps?:|ircs?:|gopher:|news:|mailto:|tel:|urn:|magnet:)?//|mailto:|news:)"
    r"|\|\}(?!\})|\|"
    r"|&(?:\#[0-9]{1,7}|\#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});"
    r"|__[^\s_\x00-\x2f:-@\[-`{-\x7f]{1,60}(?:_[^\s_\x00-\x2f:-@\[-`{-\x7f]{1,60}){0,8}__"
    r"|\n"
)
"""The next mark. Every alternative looks at a text once, so that finding all takes linear time."""
STRENGTH = {"]": 0, "}-": 1, "]]": 1, "|}": 2, "</table>": 2, "}}": 3, "": 4}
"""Of closing marks: one closes what is open inside if that is weaker."""
WITH_PARTS = frozenset(("}}", "]]", "}-"))
"""Closing marks of what has parts."""
INDENT = " \t:*#;"
"""What may precede a table in its line."""
_CELLS = ("|", "!")


class Open:
    """A mark that is not closed yet, and the parts of what followed it, separated by ``|``."""

    __slots__ = ("closing", "opening", "parts")

    def __init__(self, opening: str, closing: str) -> None:
        self.opening, self.closing = opening, closing
        self.parts: list[list[str]] = [[]]

    def content(self) -> str:
        """What followed it, with the marks between the parts."""
        return "|".join(["".join(part) for part in self.parts])

    def as_it_is(self) -> str:
        """The markup, as its closing mark is missing. Of a table, the lines that are no cells."""
        if self.closing != "|}":
            return self.opening + self.content()
        return "\n".join(
            line for line in self.content().split("\n")[1:] if not line.lstrip().startswith(_CELLS)
        )
