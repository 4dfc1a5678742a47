"""The text of wiki markup, parsed by mwparserfromhell."""

import re
from collections.abc import Iterator
from typing import Any

_DROPPED_TAGS = {"ref", "table", "gallery", "math", "timeline", "syntaxhighlight", "imagemap"}
_BLOCK_TAGS = {"br", "p", "div", "blockquote"}
_MANY_NEWLINES = re.compile(r"\n{3,}")
_DROPPED_LINKS = re.compile(r"^\s*:?\s*(file|image|category|media)\s*:", re.IGNORECASE)
_INTERWIKI = re.compile(r"^\s*[a-z]{2,3}(-[a-z-]+)?\s*:\S", re.IGNORECASE)


def plain_text(markup: str) -> str:
    """The readable text of wiki markup: no templates, tables, references, files or categories."""
    import mwparserfromhell

    nodes = mwparserfromhell.parse(markup, skip_style_tags=True).nodes
    text = "".join(_texts_of(nodes)).replace("'''", "").replace("''", "")
    return _MANY_NEWLINES.sub("\n\n", text).strip()


def _texts_of(nodes: Any) -> Iterator[str]:
    from mwparserfromhell.nodes import ExternalLink, Heading, HTMLEntity, Tag, Text, Wikilink

    for node in nodes:
        if isinstance(node, Text):
            yield str(node.value)
        elif isinstance(node, HTMLEntity):
            yield node.normalize()
        elif isinstance(node, Heading):
            yield "".join(_texts_of(node.title.nodes)).strip()
        elif isinstance(node, Wikilink):
            title = str(node.title)
            if node.text is not None and not _DROPPED_LINKS.match(title):
                yield from _texts_of(node.text.nodes)
            elif not _DROPPED_LINKS.match(title) and not _INTERWIKI.match(title):
                yield title
        elif isinstance(node, ExternalLink):
            if node.title is not None:
                yield from _texts_of(node.title.nodes)
        elif isinstance(node, Tag):
            name = str(node.tag).strip().lower()
            if name in _BLOCK_TAGS:
                yield "\n"
            if node.contents is not None and name not in _DROPPED_TAGS:
                yield from _texts_of(node.contents.nodes)
