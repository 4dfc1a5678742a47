"""WARC and WET archives of web pages, read by fastwarc."""

from collections.abc import Iterator
from enum import Enum, auto
from typing import Any, Literal

from data_prep.readers.archives import ArchiveReader
from data_prep.readers.compression import DAMAGED_COMPRESSION, is_damage
from data_prep.readers.content import kind_of, open_content
from data_prep.readers.document import BadRecords, Document
from data_prep.readers.files import SourceFile, Span, byte_spans
from data_prep.readers.html import NestedTooDeeplyError, decode, text_of_html
from data_prep.readers.kinds import Compression
from data_prep.readers.reader import FilesConfig, Reader
from data_prep.readers.warc_records import MANDATORY_HEADERS, RecordSequence, record_sequences

_DAMAGED = "damaged WARC record"


class WarcReaderConfig(FilesConfig):
    """WARC or WET files, plain or .gz, .zst, .bz2."""

    type: Literal["warc"]
    main_content: bool = True
    """Of an HTML page, keep the main content only: no navigation, headers and footers."""

    def build(self) -> Reader:
        """The reader."""
        return ArchiveReader(WarcReader(self), self)


class WarcReader:
    """Reads WARC: pages of successful HTTP responses, and WET: their extracted text."""

    def __init__(self, config: WarcReaderConfig) -> None:
        self._main_content = config.main_content

    def spans(self, file: SourceFile, part_bytes: int) -> list[Span]:
        """Byte ranges; a record belongs to the range in which it, or its gzip member, starts.

        A .gz file of a single member is in effect one span; .zst and .bz2 files are.
        """
        kind = kind_of(file)
        if kind.is_plain or kind.compression is Compression.GZIP:
            return byte_spans(file, part_bytes)
        return [Span(file, 0, file.num_bytes)]

    def read(self, span: Span, bad: BadRecords) -> Iterator[Document]:
        """The pages; their addresses are the ids."""
        with open_content(span.file) as content:
            for records in record_sequences(content, span):
                yield from _PageScanner(records, span, bad, self._main_content).pages()
                if records.error is not None:
                    if not is_damage(records.error):
                        raise records.error
                    offset, _ = records.place()
                    bad.add(span.file.path, offset, DAMAGED_COMPRESSION, str(records.error))


class _State(Enum):
    """What became of the record that was read last."""

    HELD = auto()
    """It holds a page, which is given once the record is known to be whole."""
    WITHOUT_PAGE = auto()
    """It holds no page, or there was no record yet."""
    COUNTED = auto()
    """It is counted as a bad record."""


class _PageScanner:
    """Takes the pages out of one sequence of records.

    A record is known to be whole when the next one starts where it should, or the sequence ends::

        file       | record 0 | record 1 | reco??? 2 | record 3 | record 4 |
        sequences  [---------------------)           [---------------------)
        state       HELD       HELD       damage: counted, resume_at is the byte after its start

    Damage is found in one of two ways. The start of a record is not whole: it is counted, and the
    page held of the record before is given. Or fastwarc fails after a record: this record's own
    content is damaged, so that it is counted (if it is not yet) and its page is dropped.
    """

    def __init__(
        self, records: RecordSequence, span: Span, bad: BadRecords, main_content: bool
    ) -> None:
        self._records, self._span, self._bad = records, span, bad
        self._main_content = main_content
        self._state = _State.WITHOUT_PAGE
        self._page: Document | None = None
        self._offset, _ = records.place(0)
        """Where in the file the last record, or its gzip member, starts."""

    def pages(self) -> Iterator[Document]:
        """The pages; sets `resume_at` of the sequence where it is damaged."""
        from fastwarc.warc import ArchiveIterator

        source: Any = self._records
        try:
            for record in ArchiveIterator(source, parse_http=True):
                yield from self._held_page()
                self._offset, within = self._records.place(record.stream_pos)
                if not self._records.is_whole(record.stream_pos):
                    # A span that starts here would not read it either.
                    self._bad.add(self._span.file.path, self._offset, _DAMAGED)
                    self._records.resume_at = self._offset + 1
                    return
                if self._records.is_after_span(record.stream_pos):
                    return
                self._read(record, within)
        except OSError as error:  # fastwarc cannot read what follows the record
            if self._records.error is None:
                self._drop(error)
        yield from self._held_page()

    def _held_page(self) -> Iterator[Document]:
        """The page of the last record, which is whole, if it holds one."""
        if self._state is _State.HELD and self._page is not None:
            self._state = _State.WITHOUT_PAGE
            yield self._page

    def _read(self, record: Any, within: int) -> None:
        """Reads a record that starts at byte `within` of its gzip member."""
        self._state = _State.WITHOUT_PAGE
        num_bad = self._bad.counts.total()
        self._page = self._page_of(record, within)
        if self._page is not None:
            self._state = _State.HELD
        elif self._bad.counts.total() > num_bad:
            self._state = _State.COUNTED

    def _drop(self, error: OSError) -> None:
        """Drops the last record and what follows it, up to where the next sequence starts."""
        if self._state is not _State.COUNTED:
            self._bad.add(self._span.file.path, self._offset, _DAMAGED, str(error))
        self._state = _State.COUNTED
        self._records.resume_at = self._offset + 1

    def _page_of(self, record: Any, within: int) -> Document | None:
        """The page in a record; None if it holds none or is counted as a bad record."""
        from fastwarc.warc import WarcRecordType

        bad, path, offset = self._bad, self._span.file.path, self._offset
        missing = [name for name in MANDATORY_HEADERS if record.headers.get(name) is None]
        if missing:
            bad.add(path, offset, _DAMAGED, f"no {', '.join(missing)}")
            return None
        if record.record_type not in (WarcRecordType.response, WarcRecordType.conversion):
            return None
        expected_bytes = record.content_length
        if expected_bytes > bad.max_raw_bytes:  # fastwarc skips it without holding it
            bad.add_too_long(path, offset, expected_bytes)
            return None
        content = record.reader.read()
        if len(content) != expected_bytes:
            bad.add(path, offset, "truncated record", num_bytes=len(content))
            return None
        try:
            text = self._text_of(record, content)
        except NestedTooDeeplyError:
            bad.add(path, offset, "HTML nested too deeply", num_bytes=len(content))
            return None
        if text is None or bad.has_nul(text, path, offset):
            return None
        uri = record.headers.get("WARC-Target-URI")
        name = f"{self._span.file.name}:{offset}" + f"+{within}" * (within > 0)
        return Document(text, uri or name, offset)

    def _text_of(self, record: Any, content: bytes) -> str | None:
        """The text of a page; None if the record holds none."""
        if record.http_headers is None:
            return decode(content, "utf-8")
        if record.http_headers.status_code != 200:
            return None
        kind = record.http_content_type or ""
        if kind.startswith("text/plain"):
            return decode(content, record.http_charset)
        if "html" in kind:
            return text_of_html(content, record.http_charset, self._main_content)
        return None
