"""MediaWiki XML dumps: articles, with the markup reduced to plain text."""

from collections.abc import Iterator
from enum import Enum, auto
from typing import BinaryIO, Literal, NamedTuple
from xml.etree.ElementTree import ParseError, fromstring

from data_prep.readers.archives import ArchiveReader
from data_prep.readers.compression import DAMAGED_COMPRESSION
from data_prep.readers.content import Content, kind_of, open_content
from data_prep.readers.document import BadRecords, Document
from data_prep.readers.files import SourceFile, Span, byte_spans
from data_prep.readers.kinds import Compression
from data_prep.readers.reader import FilesConfig, Reader
from data_prep.readers.streams import BZIP2, pieces_from
from data_prep.readers.wikitext import plain_text

_CHUNK_BYTES = 1 << 20
_TAIL_BYTES = 64
_PAGE_START, _PAGE_END, _DUMP_END = b"<page>", b"</page>", b"</mediawiki>"
_MAX_ELEMENTS = 1_000_000
"""Of a page; those of its markup are escaped and do not count."""
_MAX_MARKUP_CHARACTERS = 1 << 22
"""MediaWiki itself stores up to 2 MiB (its default). Parsed, a character can take a kilobyte."""
_DAMAGED_XML = "damaged or truncated XML"


class MediaWikiReaderConfig(FilesConfig):
    """MediaWiki XML dumps (pages-articles), plain or .bz2, .gz, .zst."""

    type: Literal["mediawiki"]
    namespaces: tuple[int, ...] = (0,)
    """Numbers of the namespaces to read; 0 holds the articles."""

    def build(self) -> Reader:
        """The reader."""
        return ArchiveReader(MediaWikiReader(self), self)


class MediaWikiReader:
    """Reads MediaWiki dumps."""

    def __init__(self, config: MediaWikiReaderConfig) -> None:
        self._namespaces = set(config.namespaces)

    def spans(self, file: SourceFile, part_bytes: int) -> list[Span]:
        """Byte ranges; a page belongs to the range in which it, or its bzip2 stream, starts.

        A .gz or .zst file is one span, and so in effect is a .bz2 file of a single stream.
        """
        kind = kind_of(file)
        if kind.is_plain or kind.compression is Compression.BZIP2:
            return byte_spans(file, part_bytes)
        return [Span(file, 0, file.num_bytes)]

    def read(self, span: Span, bad: BadRecords) -> Iterator[Document]:
        """The articles, without redirects; the title is the first line."""
        path = span.file.path
        with open_content(span.file) as opened:
            for offset, content in _PageScanner(path, bad).pages(_chunks(opened, span, bad)):
                if bad.has_too_many(content, b"<", _MAX_ELEMENTS, path, offset):
                    continue
                try:
                    page = fromstring(content)
                except (ParseError, ValueError) as error:
                    bad.add(path, offset, _DAMAGED_XML, str(error), len(content))
                    continue
                fields = {element.tag: element for element in page.iter()}
                if not {"title", "ns", "text"} <= fields.keys():
                    reason = "page without title, ns or text"
                    bad.add(path, offset, reason, num_bytes=len(content))
                    continue
                if _number(fields["ns"].text) not in self._namespaces or "redirect" in fields:
                    continue
                title, markup = fields["title"].text or "", fields["text"].text or ""
                if len(markup) > _MAX_MARKUP_CHARACTERS:
                    bad.add(path, offset, "longer than a wiki page", num_bytes=len(content))
                    continue
                text = f"{title}\n\n{plain_text(markup)}"
                yield Document(text, f"{span.file.name}:{title}", offset)


def _number(text: str | None) -> int | None:
    stripped = (text or "0").strip()
    return int(stripped) if stripped.isdecimal() else None


class _DumpChunk(NamedTuple):
    """The next content of a dump."""

    offset: int
    """Where in the file it is; in a compressed file, where its stream starts."""
    content: bytes
    is_after_span: bool = False
    """Whether only the rest of a page that started before is wanted of it."""
    is_damage: bool = False
    """Whether content is missing here."""


def _chunks(content: Content, span: Span, bad: BadRecords) -> Iterator[_DumpChunk]:
    """The content of a span and what follows it; counts damage, and a missing end of the dump, that
    are in the span."""
    if content.is_plain:
        yield from _plain_chunks(content.raw, span, bad)
    elif content.compression is Compression.BZIP2 and not content.is_member:
        yield from _bzip2_chunks(content.raw, span, bad)
    else:
        yield from _whole_chunks(content, span, bad)


def _plain_chunks(stream: BinaryIO, span: Span, bad: BadRecords) -> Iterator[_DumpChunk]:
    if span.end >= span.file.num_bytes:
        stream.seek(max(0, span.file.num_bytes - _TAIL_BYTES))
        _check_end(stream.read(), span, span.file.num_bytes, bad)
    stream.seek(span.start)
    position = span.start
    while True:
        left = span.end - position
        content = stream.read(min(_CHUNK_BYTES, left) if left > 0 else _CHUNK_BYTES)
        if not content:
            return
        yield _DumpChunk(position, content, is_after_span=left <= 0)
        position += len(content)


def _bzip2_chunks(stream: BinaryIO, span: Span, bad: BadRecords) -> Iterator[_DumpChunk]:
    tail = b""
    stream_at = -1
    for piece in pieces_from(stream, BZIP2, span.start, span.end):
        is_after_span = piece.stream_at >= max(span.end, 1)
        if piece.error is not None and not is_after_span:
            bad.add(span.file.path, piece.stream_at, DAMAGED_COMPRESSION, str(piece.error))
        tail = (tail if piece.stream_at == stream_at else b"") + piece.content
        tail, stream_at = tail[-_TAIL_BYTES:], piece.stream_at
        if piece.ends_file and not is_after_span:
            _check_end(tail, span, stream_at, bad)
        yield _DumpChunk(stream_at, piece.content, is_after_span, piece.error is not None)


def _whole_chunks(opened: Content, span: Span, bad: BadRecords) -> Iterator[_DumpChunk]:
    position, tail = 0, b""
    for _, content, error in opened.chunks():
        if error is not None:
            error.count(bad, span.file.path, position)
            yield _DumpChunk(position, b"", is_damage=True)
            if error.is_cut:
                return
            continue
        yield _DumpChunk(position, content)
        position += len(content)
        tail = (tail + content)[-_TAIL_BYTES:]
    _check_end(tail, span, position, bad)


def _check_end(tail: bytes, span: Span, offset: int, bad: BadRecords) -> None:
    """Counts a dump whose last bytes, `tail`, are not its end tag."""
    end = tail.strip()[-len(_DUMP_END) :]
    if not tail or not _DUMP_END.endswith(end):
        bad.add(span.file.path, offset, "the file does not end with </mediawiki>")


class _State(Enum):
    """Where the scanner is in the dump."""

    BETWEEN_PAGES = auto()
    """Looking for the start of a page."""
    IN_PAGE = auto()
    """Looking for the end of the page with which the held content starts."""
    AFTER_SPAN = auto()
    """The next page starts after the span: finished."""


class _PageScanner:
    """Finds the pages that start in one span, in content that is cut anywhere::

        <page>A</page><page>B</page><page>C</page>
        [------ span 0 ------)[----- span 1 -----)

    Span 0 gives A and B: it is IN_PAGE at its end, and reads on to the end of B. Span 1 drops the
    rest of B and gives C. A tag that is cut belongs to the span of its first byte. Text in a dump
    never holds a tag: its ``<`` is written ``&lt;``.
    """

    def __init__(self, path: str, bad: BadRecords) -> None:
        self._path, self._bad = path, bad
        self._state = _State.BETWEEN_PAGES
        self._offset = 0
        """Of the last chunk."""
        self._held = bytearray()
        """Content that is not finished with; in state IN_PAGE it starts with <page>."""
        self._searched = 0
        """Where in `_held` the search for the end of the page continues."""
        self._span_end: int | None = None
        """Where in `_held` the span ends, once content after it was read."""

    def pages(self, chunks: Iterator[_DumpChunk]) -> Iterator[tuple[int, bytes]]:
        """(offset of its last chunk, page with its tags) of each page that starts in the span."""
        for chunk in chunks:
            if chunk.is_damage:
                self._held.clear()
                self._state = _State.BETWEEN_PAGES
                if chunk.is_after_span:
                    return
                continue
            if chunk.is_after_span and self._span_end is None:
                self._span_end = len(self._held)
            self._held += chunk.content
            self._offset = chunk.offset
            while (page := self._next_page()) is not None:
                yield self._offset, page
            if self._state is _State.AFTER_SPAN:
                return
        if self._state is _State.IN_PAGE:
            detail = "a page without its end"
            self._bad.add(self._path, self._offset, _DAMAGED_XML, detail, len(self._held))

    def _next_page(self) -> bytes | None:
        """The next page that is held whole; None if there is none."""
        if self._state is _State.BETWEEN_PAGES:
            self._find_start()
        if self._state is not _State.IN_PAGE:
            return None
        end = self._held.find(_PAGE_END, self._searched)
        if end < 0 and len(self._held) > self._bad.max_raw_bytes:
            self._bad.add_too_long(self._path, self._offset, len(self._held))
            self._drop(len(self._held))  # the rest of the page holds no start of a page
            self._state = _State.BETWEEN_PAGES
            return None
        if end < 0:
            self._searched = max(len(_PAGE_START), len(self._held) - len(_PAGE_END) + 1)
            return None
        page = bytes(self._held[: end + len(_PAGE_END)])
        self._drop(len(page))
        self._state = _State.BETWEEN_PAGES
        return page

    def _find_start(self) -> None:
        """Drops what is before the next page, and enters it if it starts in the span."""
        start = self._held.find(_PAGE_START)
        self._drop(start if start >= 0 else max(0, len(self._held) - len(_PAGE_START) + 1))
        if self._span_end is not None and self._span_end <= 0:
            self._state = _State.AFTER_SPAN
        elif start >= 0:
            self._state, self._searched = _State.IN_PAGE, len(_PAGE_START)

    def _drop(self, num_bytes: int) -> None:
        del self._held[:num_bytes]
        if self._span_end is not None:
            self._span_end -= num_bytes
