"""The pages of MediaWiki XML dumps, found wherever a dump is cut."""

import re
from collections.abc import Iterator
from enum import Enum, auto
from itertools import pairwise
from typing import BinaryIO, NamedTuple

from data_prep.readers.compression import DAMAGED_COMPRESSION
from data_prep.readers.content import Content
from data_prep.readers.document import BadRecords
from data_prep.readers.files import Span
from data_prep.readers.kinds import Compression, encoding_by
from data_prep.readers.streams import BZIP2, content_head, pieces_from
from data_prep.readers.url_stream import expect
from data_prep.readers.wiki_site import MAX_HEAD_BYTES

DAMAGED_XML = "damaged or truncated XML"
"""The reason under which a page that is not whole, or not XML, is counted."""

_CHUNK_BYTES = 1 << 20
_HEAD_BYTES, _TAIL_BYTES = 1 << 16, 64
_MARK_BYTES = 4
"""Of the longest byte order mark."""
_OLDER_REVISION = "older revision of a wiki page"
_PAGE_START, _PAGE_END = b"<page>", b"</page>"
_DUMP_START, _DUMP_END = b"<mediawiki", b"</mediawiki>"
_REVISION_START = b"<revision>"
_NO_END = "a page without its end"
_REVISION = re.compile(re.escape(_REVISION_START))


class _DumpChunk(NamedTuple):
    """The next content of a dump."""

    offset: int
    """Where in the file it is; in a compressed file, where its stream starts."""
    content: bytes
    is_after_span: bool = False
    """Whether only the rest of a page that started before is wanted of it."""
    is_damage: bool = False
    """Whether content is missing here."""
    is_exact: bool = True
    """Whether each byte of it is one of the offsets that follow."""


def dump_pages(
    content: Content, span: Span, bad: BadRecords
) -> tuple[bytes, Iterator[tuple[int, bytes]]]:
    """(start of the dump up to its first page, pages that start in the span).

    A page is (its offset, its XML with the newest revision only, the last one in the file). Counts
    damage, older revisions, and a missing end of the dump, that are in the span.
    """
    head = content.head(_HEAD_BYTES)
    if _PAGE_START not in head:
        head = content.head(MAX_HEAD_BYTES)
    if head and _PAGE_START not in head and _DUMP_START not in head:
        if span.start == 0:
            num_bytes = span.file.num_bytes
            bad.add_damage(span.file.path, 0, "no MediaWiki dump", num_bytes=num_bytes)
        return head, iter(())
    chunks = _chunks(content, span, bad)
    return head, _PageScanner(span.file.path, bad).pages(chunks)


def can_be_cut(content: Content) -> bool:
    """Whether the dump can be read from the middle: plain or bzip2, in UTF-8."""
    if content.compression is not Compression.BZIP2 or content.is_member:
        return content.is_plain
    return encoding_by(content_head(content.raw, BZIP2, _MARK_BYTES)) is None


def _chunks(content: Content, span: Span, bad: BadRecords) -> Iterator[_DumpChunk]:
    """The content of a span and what follows it; counts damage, and a missing end of the dump, that
    are in the span."""
    if content.is_plain:
        yield from _plain_chunks(content.raw, span, bad)
    elif can_be_cut(content):
        yield from _bzip2_chunks(content.raw, span, bad)
    else:
        yield from _whole_chunks(content, span, bad)


def _plain_chunks(stream: BinaryIO, span: Span, bad: BadRecords) -> Iterator[_DumpChunk]:
    if span.end >= span.file.num_bytes:
        stream.seek(max(0, span.file.num_bytes - _TAIL_BYTES))
        _check_end(stream.read(), span, span.file.num_bytes, bad)
    expect(stream, (span.start, span.end))
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
        stream_at, is_same = piece.stream_at, piece.stream_at == stream_at
        is_after_span = stream_at >= max(span.end, 1)
        if piece.error is not None and not is_after_span:
            add = bad.add_cut if piece.ends_file else bad.add_damage
            lost_bytes = piece.raw_end - piece.raw_at
            add(span.file.path, stream_at, DAMAGED_COMPRESSION, str(piece.error), lost_bytes)
        tail = ((tail if is_same else b"") + piece.content)[-_TAIL_BYTES:]
        if piece.ends_file and piece.error is None and not is_after_span:
            _check_end(tail, span, stream_at, bad)
        is_damage = piece.error is not None
        yield _DumpChunk(stream_at, piece.content, is_after_span, is_damage, is_exact=False)


def _whole_chunks(opened: Content, span: Span, bad: BadRecords) -> Iterator[_DumpChunk]:
    position, tail = 0, b""
    expect(opened.raw, (0, span.file.num_bytes))
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
        bad.add_cut(span.file.path, offset, "the file does not end with </mediawiki>")


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
        self._last, self._previous_offset = _DumpChunk(0, b""), 0
        """The last chunk; the offset of the one before."""
        self._page_offset = 0
        """Where the page starts; in a compressed file, where its stream does."""
        self._held = bytearray()
        """Content that is not finished with; in state IN_PAGE it starts with <page>."""
        self._searched = 0
        """Where in `_held` the search for the end of the page continues."""
        self._newest: list[int] = []
        """Where in `_held` the newest revision starts that was found, if there is one."""
        self._revisions_searched = 0
        self._span_end: int | None = None
        """Where in `_held` the span ends, once content after it was read."""

    def pages(self, chunks: Iterator[_DumpChunk]) -> Iterator[tuple[int, bytes]]:
        """(offset, page with its tags) of each page that starts in the span."""
        for chunk in chunks:
            if chunk.is_damage:
                self._add_cut_page("damage within a page")
                self._held.clear()
                self._state = _State.BETWEEN_PAGES
                if chunk.is_after_span:
                    return
                continue
            if chunk.is_after_span and self._span_end is None:
                self._span_end = len(self._held)
            self._held += chunk.content
            self._last, self._previous_offset = chunk, self._last.offset
            while (page := self._next_page()) is not None:
                if page:
                    yield self._page_offset, page
            if self._state is _State.AFTER_SPAN:
                return
        self._add_cut_page(_NO_END)

    def _add_cut_page(self, detail: str) -> None:
        """Counts the page whose end is not found, if there is one."""
        if self._state is _State.IN_PAGE:
            self._bad.add(self._path, self._page_offset, DAMAGED_XML, detail, len(self._held))

    def _next_page(self) -> bytes | None:
        """The next page that is held whole; None if there is none, empty if it is damaged."""
        if self._state is _State.BETWEEN_PAGES:
            self._find_start()
        if self._state is not _State.IN_PAGE:
            return None
        next_start = self._held.find(_PAGE_START, self._searched)
        end = self._held.find(_PAGE_END, self._searched, next_start if next_start >= 0 else None)
        if end < 0 <= next_start:  # a text holds no tag
            self._bad.add(self._path, self._page_offset, DAMAGED_XML, _NO_END, next_start)
            self._drop(next_start)
            self._state = _State.BETWEEN_PAGES
            return b""
        if end < 0:
            self._drop_older_revisions(len(self._held))
        if end < 0 and len(self._held) > self._bad.max_raw_bytes:
            self._bad.add_too_long(self._path, self._page_offset, len(self._held))
            self._drop(len(self._held))  # the rest of the page holds no start of a page
            self._state = _State.BETWEEN_PAGES
            return None
        if end < 0:
            self._searched = max(len(_PAGE_START), len(self._held) - len(_PAGE_END) + 1)
            return None
        end = self._drop_older_revisions(end)
        page = bytes(self._held[: end + len(_PAGE_END)])
        self._drop(len(page))
        self._state = _State.BETWEEN_PAGES
        return page

    def _find_start(self) -> None:
        """Drops what is before the next page, and enters it if it starts in the span."""
        start = self._held.find(_PAGE_START)
        in_chunk = start - (len(self._held) - len(self._last.content))
        if self._last.is_exact:
            self._page_offset = self._last.offset + in_chunk
        else:
            self._page_offset = self._last.offset if in_chunk >= 0 else self._previous_offset
        self._drop(start if start >= 0 else max(0, len(self._held) - len(_PAGE_START) + 1))
        if self._span_end is not None and self._span_end <= 0:
            self._state = _State.AFTER_SPAN
        elif start >= 0:
            self._state, self._searched = _State.IN_PAGE, len(_PAGE_START)
            self._newest, self._revisions_searched = [], len(_PAGE_START)

    def _drop_older_revisions(self, end: int) -> int:
        """Drops and counts the revisions in `_held[:end]` that another one follows; gives the end
        after that."""
        found = _REVISION.finditer(self._held, self._revisions_searched, end)
        starts = [*self._newest, *(revision.start() for revision in found)]
        for start, following in pairwise(starts):
            self._bad.skip(_OLDER_REVISION, following - start, self._path, self._page_offset)
        if len(starts) > 1:
            num_bytes = starts[-1] - starts[0]
            del self._held[starts[0] : starts[-1]]
            if self._span_end is not None:
                self._span_end -= num_bytes
            end -= num_bytes
        self._newest = starts[:1]
        searched = self._newest[0] + 1 if self._newest else len(_PAGE_START)
        self._revisions_searched = max(searched, end - len(_REVISION_START) + 1)
        return end

    def _drop(self, num_bytes: int) -> None:
        del self._held[:num_bytes]
        if self._span_end is not None:
            self._span_end -= num_bytes
