"""MediaWiki XML dumps: articles, with the markup stripped to text by mwparserfromhell."""

import re
from collections.abc import Iterator
from typing import Any, Literal
from xml.etree.ElementTree import ParseError, XMLPullParser

from pydantic import Field

from configs.load import Config
from data_prep.document import BadRecords, Document
from data_prep.readers.files import TRUNCATED, SourceFile, Span, decompressed, is_damage, open_file

_CHUNK_BYTES = 1 << 20
_DROPPED_TAGS = {"ref", "table", "gallery", "math", "timeline", "syntaxhighlight", "imagemap"}
_BLOCK_TAGS = {"br", "p", "div", "blockquote"}
_MANY_NEWLINES = re.compile(r"\n{3,}")
_DROPPED_LINKS = re.compile(r"^\s*:?\s*(file|image|category|media)\s*:", re.IGNORECASE)
_INTERWIKI = re.compile(r"^\s*[a-z]{2,3}(-[a-z-]+)?\s*:\S", re.IGNORECASE)


class MediaWikiReaderConfig(Config):
    """MediaWiki XML dumps (pages-articles), plain or .bz2, .gz, .zst."""

    type: Literal["mediawiki"]
    files: tuple[str, ...] = Field(min_length=1)
    """Paths, globs or URLs."""
    namespaces: tuple[int, ...] = (0,)
    """Numbers of the namespaces to read; 0 holds the articles."""

    def build(self) -> "MediaWikiReader":
        """The reader."""
        return MediaWikiReader(self)


class MediaWikiReader:
    """Reads MediaWiki dumps."""

    def __init__(self, config: MediaWikiReaderConfig) -> None:
        self._namespaces = set(config.namespaces)

    def spans(self, file: SourceFile, part_bytes: int) -> list[Span]:
        """The whole file: XML has no place to begin in its middle."""
        return [Span(file, 0, file.num_bytes)]

    def read(self, span: Span, bad: BadRecords) -> Iterator[Document]:
        """The articles, without redirects; the title is the first line."""
        path = span.file.path
        with open_file(span.file) as stream:
            lines = decompressed(stream, span.file.name)
            for offset, page in _pages(lines, path, bad):
                fields = {_local_name(element): element for element in page.iter()}
                if not {"title", "ns", "text"} <= fields.keys():
                    bad.add(path, offset, "page without title, ns or text")
                    continue
                if int(fields["ns"].text or 0) not in self._namespaces or "redirect" in fields:
                    continue
                title, markup = fields["title"].text or "", fields["text"].text or ""
                text = f"{title}\n\n{plain_text(markup)}"
                yield Document(text, f"{span.file.name}:{title}")


def _pages(stream: Any, path: str, bad: BadRecords) -> Iterator[tuple[int, Any]]:
    """(offset, <page> element) of each whole page; damage ends the file as one bad record."""
    parser: Any = XMLPullParser(events=("start", "end"))
    offset = 0
    root: Any = None
    try:
        while True:
            chunk = stream.read(_CHUNK_BYTES)
            if chunk:
                parser.feed(chunk)
            else:
                parser.close()
            for event, element in parser.read_events():
                if root is None:
                    root = element
                if event == "end" and _local_name(element) == "page":
                    yield offset, element
                    root.clear()
            if not chunk:
                return
            offset += len(chunk)
    except ParseError as error:
        bad.add(path, offset, "damaged or truncated XML", str(error))
    except (*TRUNCATED, OSError) as error:
        if not is_damage(error):
            raise
        bad.add(path, offset, "damaged or truncated compression", str(error))


def _local_name(element: Any) -> str:
    return str(element.tag).rpartition("}")[2]


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
