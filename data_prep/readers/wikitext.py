"""The text of wiki markup.

One pass over the marks of the markup with a stack of what is open, so that the time grows with the
length of the markup, whatever it is: general parsers (mwparserfromhell 0.7) take time that grows
with its square for marks that are never closed. What is closed becomes text or nothing; what is not
stays in the text as it is, as on the page that MediaWiki shows.
"""

import re
from collections import Counter
from collections.abc import Callable

from data_prep.readers.wiki_lines import DROPPED, joined_lines, literal
from data_prep.readers.wiki_links import external_link_text, link_text, variant_text
from data_prep.readers.wiki_marks import INDENT, STRENGTH, TOKEN, WITH_PARTS, Open
from data_prep.readers.wiki_site import WikiSite, is_redirect_word, site_of
from data_prep.readers.wiki_templates import NOWIKI_EQUALS, template_text
from data_prep.readers.wiki_words import (
    BLOCK_TAGS,
    DROPPED_TAGS,
    INLINE_TAGS,
    LITERAL_TAGS,
    is_magic_word,
)

_MAX_DEPTH = 100
"""Deeper, marks are no markup; MediaWiki's own limit is the same."""
_MAX_INDENT = 40
_ALL_NAMES_SITE = site_of(b"")

_TAG = re.compile(r"<(/?)([A-Za-z][A-Za-z0-9]*)")
_CONTROLS = re.compile("[\0-\b]")

_CLOSING = {
    name: re.compile(rf"</{name}\s*>", re.IGNORECASE) for name in DROPPED_TAGS | LITERAL_TAGS
}
_REDIRECT = re.compile(r"\s*[#＃]\s*([^\s\[\]#*:;|{}<>]{1,60})\s*:?\s*\[\[([^\[\]\n]{1,600})\]\]")


def plain_text(markup: str, site: WikiSite = _ALL_NAMES_SITE, title: str = "") -> str:
    """The readable text of wiki markup: no tables, references, files or categories, and of
    templates what `wiki_templates` knows to be text.

    `title` is that of the page.
    """
    return joined_lines(_Converter(_CONTROLS.sub("", markup), site, title).text())


def is_redirect(markup: str, site: WikiSite = _ALL_NAMES_SITE) -> bool:
    """Whether a page is a redirect: ``#REDIRECT [[target]]``, or another word of which it is known,
    or which is followed by nothing but a link."""
    found = _REDIRECT.match(markup)
    if found is None:
        return False
    return is_redirect_word(found.group(1)) or not plain_text(markup[found.end() :], site)


class _Converter:
    """Converts one page."""

    def __init__(self, markup: str, site: WikiSite, title: str) -> None:
        self._markup, self._site, self._title = markup, site, title
        self._stack = [Open("", "")]
        self._buffer = self._stack[0].parts[0]
        """Where text goes: the last part of what was opened last."""
        self._num_open: Counter[str] = Counter()
        """Of the stack, by closing mark."""
        self._has_no_more: set[str] = set()
        """Closing tags that do not occur in the rest of the markup."""
        self._handlers: dict[str, Callable[[str, int, int], int]] = {
            "<": self._on_tag,
            "{": self._on_open_brace,
            "}": self._on_close_brace,
            "-": self._on_variant,
            "[": self._on_open_bracket,
            "]": self._on_close_bracket,
            "|": self._on_bar,
            "&": self._on_entity,
            "_": self._on_magic_word,
            "\n": self._on_line_end,
        }
        """By the first character of a token; each gives the place at which to continue."""

    def text(self) -> str:
        """The text, with the marks of `wiki_lines` in it."""
        markup, place = self._markup, 0
        while (found := TOKEN.search(markup, place)) is not None:
            start, end = found.span()
            if start > place:
                self._buffer.append(markup[place:start])
            place = self._handlers[markup[start]](found.group(), start, end)
        self._buffer.append(markup[place:])
        while len(self._stack) > 1:
            self._add(self._pop().as_it_is())
        return "".join(self._buffer)

    # The stack

    def _add(self, text: str) -> None:
        self._buffer.append(text)

    def _add_result(self, text: str) -> None:
        """Adds the text of markup; an ``=`` in it separates no name of a parameter."""
        self._add(text.replace("=", NOWIKI_EQUALS) if self._num_open["}}"] else text)

    def _open(self, opening: str, closing: str) -> None:
        if len(self._stack) > _MAX_DEPTH:
            lowest = self._stack.pop(1)
            self._num_open[lowest.closing] -= 1
            self._stack[0].parts[0].append(lowest.as_it_is())
        self._stack.append(Open(opening, closing))
        self._num_open[closing] += 1
        self._buffer = self._stack[-1].parts[0]

    def _pop(self) -> Open:
        popped = self._stack.pop()
        self._num_open[popped.closing] -= 1
        self._buffer = self._stack[-1].parts[-1]
        return popped

    def _close(self, closing: str) -> Open | None:
        """What `closing` closes, taken from the stack with all that is open inside; None if that is
        nothing."""
        if not self._num_open[closing]:
            return None
        strength = STRENGTH[closing]
        for opened in reversed(self._stack):
            if opened.closing == closing:
                break
            if STRENGTH[opened.closing] >= strength:
                return None
        while self._stack[-1].closing != closing:
            self._add(self._pop().as_it_is())
        return self._pop()

    def _is_line_start(self, place: int) -> bool:
        line = self._markup[max(0, place - _MAX_INDENT) : place].rpartition("\n")
        is_whole = bool(line[1]) or place <= _MAX_INDENT
        return is_whole and not line[2].strip(INDENT)

    # Tokens

    def _on_line_end(self, token: str, start: int, end: int) -> int:
        if self._stack[-1].closing == "]":
            self._add(self._pop().as_it_is())
        self._add(token)
        return end

    def _on_bar(self, token: str, start: int, end: int) -> int:
        if token == "|}":
            if self._is_line_start(start) and self._close("|}") is not None:
                self._add(DROPPED)
                return end
            end -= 1
        opened = self._stack[-1]
        if opened.closing in WITH_PARTS:
            opened.parts.append([])
            self._buffer = opened.parts[-1]
        else:
            self._add("|")
        return end

    def _on_open_brace(self, token: str, start: int, end: int) -> int:
        if token != "{|":
            self._add(token[:-_MAX_DEPTH])
            self._open(token[-_MAX_DEPTH:], "}}")
        elif self._is_line_start(start) or (
            self._stack[-1].closing == "}}" and not any(map(str.strip, self._buffer))
        ):
            self._open(token, "|}")
        else:
            self._add("{")
            return end - 1
        return end

    def _on_close_brace(self, token: str, start: int, end: int) -> int:
        if token == "}-":
            opened = self._close(token)
            self._add_result(token if opened is None else variant_text(opened.parts))
            return end
        left = len(token)
        while left >= 2 and (opened := self._close("}}")) is not None:
            braces = min(len(opened.opening), left, 3)
            text = self._in_braces(opened, braces)
            left -= braces
            outer = opened.opening[braces:]
            if len(outer) >= 2:
                self._open(outer, "}}")
                outer = ""
            self._add(outer)
            self._add_result(text)
        self._add("}" * left)
        return end

    def _in_braces(self, opened: Open, braces: int) -> str:
        """The text of a template (two braces), or of a parameter of this page (three)."""
        if braces == 3:
            text: str | None = "".join(opened.parts[1]) if len(opened.parts) > 1 else None
        else:
            text = template_text(opened.parts, self._site.template_names, self._title)
        return DROPPED if text is None else text

    def _on_variant(self, token: str, start: int, end: int) -> int:
        self._open(token, "}-")
        return end

    def _on_open_bracket(self, token: str, start: int, end: int) -> int:
        if token == "[[":
            self._open(token, "]]")
            return end
        if self._stack[-1].closing == "]":
            self._add(self._pop().as_it_is())
        self._open(token, "]")
        return end

    def _on_close_bracket(self, token: str, start: int, end: int) -> int:
        if (opened := self._close("]")) is not None:
            self._add_result(external_link_text(opened.content()))
            return end
        if self._markup.startswith("]]", start) and (opened := self._close("]]")) is not None:
            text = link_text(opened.parts, self._site)
            self._add_result(f"[[{opened.content()}]]" if text is None else text)
            return end + 1
        self._add(token)
        return end

    def _on_entity(self, token: str, start: int, end: int) -> int:
        self._add(literal(token))
        return end

    def _on_magic_word(self, token: str, start: int, end: int) -> int:
        self._add(DROPPED if is_magic_word(token.strip("_")) else token)
        return end

    def _on_tag(self, token: str, start: int, end: int) -> int:
        if token == "<!--":
            return self._after_comment(start, end)
        found = _TAG.match(token)
        assert found is not None, "the token starts as a tag"
        is_end, name = bool(found.group(1)), found.group(2).lower()
        if name in BLOCK_TAGS:
            self._add("\n")
        elif name == "table":
            self._on_table_tag(is_end)
        elif name in _CLOSING:
            if not is_end and not token.endswith("/>"):
                return self._after_content(name, end)
        elif name not in INLINE_TAGS:
            self._add("<")
            return start + 1
        return end

    def _on_table_tag(self, is_end: bool) -> None:
        if not is_end:
            self._open("", "</table>")
        elif self._close("</table>") is not None:
            self._add(DROPPED)

    def _after_content(self, name: str, end: int) -> int:
        """Adds the content of a tag that holds no markup, if it is text."""
        closing = None
        if name not in self._has_no_more:
            closing = _CLOSING[name].search(self._markup, end)
        if closing is None:
            self._has_no_more.add(name)
            return end
        is_text = name in LITERAL_TAGS
        self._add(literal(self._markup[end : closing.start()]) if is_text else DROPPED)
        return closing.end()

    def _after_comment(self, start: int, end: int) -> int:
        """Where the markup continues after a comment; one that is not closed hides nothing."""
        close = -1 if "-->" in self._has_no_more else self._markup.find("-->", end)
        if close < 0:
            self._has_no_more.add("-->")
            return end
        after = close + len("-->")
        is_line = self._markup[start - 1 : start] in ("\n", "") and self._markup.startswith(
            "\n", after
        )
        return after + is_line
