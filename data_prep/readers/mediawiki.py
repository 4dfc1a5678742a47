"""MediaWiki XML dumps: articles, with the markup stripped to text by mwparserfromhell."""

import re
from collections.abc import Iterator
from typing import Any, BinaryIO, Literal, NamedTuple
from xml.etree.ElementTree import ParseError, fromstring

from pydantic import Field

from configs.load import Config
from data_prep.readers.compression import chunks_of, is_compressed
from data_prep.readers.document import BadRecords, Document
from data_prep.readers.files import SourceFile, Span, byte_spans, open_file
from data_prep.readers.streams import BZIP2, pieces_from

_CHUNK_BYTES = 1 << 20
_BEGIN, _END, _END_OF_DUMP = b"<page>", b"</page>", b"</mediawiki>"
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
        """Byte ranges; a page belongs to the range in which it, or its bzip2 stream, begins.

        A .gz or .zst file is one span, and so in effect is a .bz2 file of a single stream.
        """
        if is_compressed(file.name) and not file.name.endswith(".bz2"):
            return [Span(file, 0, file.num_bytes)]
        return byte_spans(file, part_bytes)

    def read(self, span: Span, bad: BadRecords) -> Iterator[Document]:
        """The articles, without redirects; the title is the first line."""
        path = span.file.path
        with open_file(span.file) as stream:
            for offset, content in _pages(_chunks(stream, span, bad), path, bad):
                try:
                    page = fromstring(content)
                except (ParseError, ValueError) as error:
                    bad.add(path, offset, "damaged or truncated XML", str(error))
                    continue
                fields = {element.tag: element for element in page.iter()}
                if not {"title", "ns", "text"} <= fields.keys():
                    bad.add(path, offset, "page without title, ns or text")
                    continue
                if _number(fields["ns"].text) not in self._namespaces or "redirect" in fields:
                    continue
                title, markup = fields["title"].text or "", fields["text"].text or ""
                text = f"{title}\n\n{plain_text(markup)}"
                yield Document(text, f"{span.file.name}:{title}", offset)


def _number(text: str | None) -> int | None:
    stripped = (text or "0").strip()
    return int(stripped) if stripped.isdecimal() else None


class _Chunk(NamedTuple):
    """Content of a dump, in order."""

    offset: int
    """Where in the file it stands: of a compressed file, where its stream begins."""
    content: bytes
    follows_span: bool = False
    """Whether only the rest of a page that began before is wanted of it."""
    is_damage: bool = False
    """What follows does not connect with what came before."""


def _chunks(stream: BinaryIO, span: Span, bad: BadRecords) -> Iterator[_Chunk]:
    """The content of a span, and what follows it; damage, and a dump without an end, are counted
    where they are in the span."""
    if span.file.name.endswith(".bz2"):
        yield from _bzip2_chunks(stream, span, bad)
    elif is_compressed(span.file.name):
        yield from _whole_chunks(stream, span, bad)
    else:
        yield from _plain_chunks(stream, span, bad)


def _plain_chunks(stream: BinaryIO, span: Span, bad: BadRecords) -> Iterator[_Chunk]:
    if span.end >= span.file.num_bytes:
        stream.seek(max(0, span.file.num_bytes - 64))
        _check_end(stream.read(), span, span.file.num_bytes, bad)
    stream.seek(span.start)
    position = span.start
    while True:
        left = span.end - position
        content = stream.read(min(_CHUNK_BYTES, left) if left > 0 else _CHUNK_BYTES)
        if not content:
            return
        yield _Chunk(position, content, follows_span=left <= 0)
        position += len(content)


def _bzip2_chunks(stream: BinaryIO, span: Span, bad: BadRecords) -> Iterator[_Chunk]:
    last = b""
    stream_at = -1
    for piece in pieces_from(stream, BZIP2, span.start, span.end):
        follows = piece.stream_at >= max(span.end, 1)
        if piece.error is not None and not follows:
            reason = "damaged or truncated compression"
            bad.add(span.file.path, piece.stream_at, reason, str(piece.error))
        last = (last if piece.stream_at == stream_at else b"") + piece.content
        last, stream_at = last[-64:], piece.stream_at
        if piece.ends_file and not follows:
            _check_end(last, span, stream_at, bad)
        yield _Chunk(stream_at, piece.content, follows, piece.error is not None)


def _whole_chunks(stream: BinaryIO, span: Span, bad: BadRecords) -> Iterator[_Chunk]:
    position, last = 0, b""
    for _, content, error in chunks_of(stream, span.file.name):
        if error is not None:
            reason = "damaged or truncated compression"
            bad.add(span.file.path, position, reason, str(error))
            yield _Chunk(position, b"", is_damage=True)
            return
        yield _Chunk(position, content)
        position += len(content)
        last = (last + content)[-64:]
    _check_end(last, span, position, bad)


def _check_end(last: bytes, span: Span, offset: int, bad: BadRecords) -> None:
    end = last.strip()[-len(_END_OF_DUMP) :]
    if not last or not _END_OF_DUMP.endswith(end):
        bad.add(span.file.path, offset, "the file does not end with </mediawiki>")


def _pages(chunks: Iterator[_Chunk], path: str, bad: BadRecords) -> Iterator[tuple[int, bytes]]:
    """(offset, page with its tags) of each page that begins in the span.

    Text in a dump never holds a tag: its ``<`` are written ``&lt;``.
    """
    held = bytearray()  # begins with <page> where a page is open
    is_open = False
    searched = offset = 0
    limit: int | None = None  # where in `held` the span ends
    for chunk in chunks:
        if chunk.is_damage:
            held.clear()
            is_open = False
            if chunk.follows_span:
                return
            continue
        if chunk.follows_span and limit is None:
            limit = len(held)
        held += chunk.content
        offset = chunk.offset
        while True:
            if not is_open:
                begin = held.find(_BEGIN)
                keep_from = begin if begin >= 0 else max(0, len(held) - len(_BEGIN) + 1)
                if limit is not None:
                    limit -= keep_from
                    if limit <= 0:
                        return
                del held[:keep_from]
                if begin < 0:
                    break
                is_open, searched = True, len(_BEGIN)
            end = held.find(_END, searched)
            if end < 0:
                searched = max(len(_BEGIN), len(held) - len(_END) + 1)
                break
            end += len(_END)
            yield offset, bytes(held[:end])
            del held[:end]
            is_open = False
            if limit is not None:
                limit -= end
    if is_open:
        bad.add(path, offset, "damaged or truncated XML", "a page without its end")


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
