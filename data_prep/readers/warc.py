"""WARC and WET archives of web pages, read by fastwarc; HTML becomes text by resiliparse."""

import re
from collections.abc import Iterator
from typing import Any, BinaryIO, Literal, Protocol

from pydantic import Field

from configs.load import Config
from data_prep.readers.compression import TRUNCATED, decompressed, is_compressed, is_damage
from data_prep.readers.document import BadRecords, Document
from data_prep.readers.files import SourceFile, Span, byte_spans, open_file
from data_prep.readers.streams import WARC_GZIP, Piece, pieces_from

_RECORD_BEGINS = re.compile(rb"WARC/\d\.\d\r?\n")
_HEAD_ENDS = re.compile(rb"\r?\n\r?\n")
_CONTENT_LENGTH = re.compile(rb"\ncontent-length:\s*(\d+)", re.IGNORECASE)
_MANDATORY = ("WARC-Type", "WARC-Record-ID", "WARC-Date", "Content-Length")
_OTHER_HEADERS = tuple(f"\n{name.lower()}:".encode() for name in _MANDATORY[:3])
_DAMAGED = "damaged WARC record"
_NESTING_TAGS = re.compile(rb"<(/?)(?:div|article|ul|ol)\b")
_MAX_NESTING = 1000
_WINDOW_BYTES, _MAX_HEAD_BYTES = 1 << 20, 1 << 14


class WarcReaderConfig(Config):
    """WARC or WET files, plain or .gz."""

    type: Literal["warc"]
    files: tuple[str, ...] = Field(min_length=1)
    """Paths, globs or URLs."""
    main_content: bool = True
    """Of an HTML page, keep the main content only: no navigation, headers and footers."""

    def build(self) -> "WarcReader":
        """The reader."""
        return WarcReader(self)


class WarcReader:
    """Reads WARC: pages of successful HTTP responses, and WET: their extracted text."""

    def __init__(self, config: WarcReaderConfig) -> None:
        self._main_content = config.main_content

    def spans(self, file: SourceFile, part_bytes: int) -> list[Span]:
        """Byte ranges; a record belongs to the range in which it, or its gzip member, begins.

        A .gz file of a single member is in effect one span; .zst and .bz2 files are.
        """
        if is_compressed(file.name) and not file.name.endswith(".gz"):
            return [Span(file, 0, file.num_bytes)]
        return byte_spans(file, part_bytes)

    def read(self, span: Span, bad: BadRecords) -> Iterator[Document]:
        """The pages, named by their addresses."""
        with open_file(span.file) as stream:
            for records in _runs(stream, span):
                yield from self._documents(records, span, bad)
                if records.error is not None:
                    if not is_damage(records.error):
                        raise records.error
                    reason = "damaged or truncated compression"
                    bad.add(span.file.path, records.place()[0], reason, str(records.error))

    def _documents(self, run: "_Run", span: Span, bad: BadRecords) -> Iterator[Document]:
        """The pages of a run. A record is whole if another, or the end, follows: until that is seen
        its page is held."""
        from fastwarc.warc import ArchiveIterator

        source: Any = run
        path = span.file.path
        offset, _ = run.place(0)
        held: Document | None = None
        num_bad = bad.counts.total()
        try:
            for record in ArchiveIterator(source, parse_http=True):
                if held is not None:
                    yield held
                    held = None
                offset, within = run.place(record.stream_pos)
                if not run.is_whole(record.stream_pos):  # nor would a span that begins here read it
                    bad.add(path, offset, _DAMAGED)
                    run.resume_at = offset + 1
                    return
                if run.is_past(record.stream_pos):
                    return
                num_bad = bad.counts.total()
                held = self._page_of(record, (offset, within), span, bad)
        except OSError as error:  # fastwarc cannot read what follows a record
            if run.error is None:
                if bad.counts.total() == num_bad:  # else the record is counted
                    bad.add(path, offset, _DAMAGED, str(error))
                run.resume_at, held = offset + 1, None
        if held is not None:
            yield held

    def _page_of(
        self, record: Any, place: tuple[int, int], span: Span, bad: BadRecords
    ) -> Document | None:
        """The page in a record, None where it holds none or is counted in `bad`."""
        from fastwarc.warc import WarcRecordType

        path, (offset, within) = span.file.path, place
        missing = [name for name in _MANDATORY if record.headers.get(name) is None]
        if missing:
            bad.add(path, offset, _DAMAGED, f"no {', '.join(missing)}")
            return None
        if record.record_type not in (WarcRecordType.response, WarcRecordType.conversion):
            return None
        expected_bytes = record.content_length
        if expected_bytes > bad.max_raw_bytes:  # fastwarc passes over it without holding it
            bad.add_too_long(path, offset, expected_bytes)
            return None
        content = record.reader.read()
        if len(content) != expected_bytes:
            bad.add(path, offset, "truncated record")
            return None
        try:
            text = self._text_of(record, content)
        except NestedTooDeeplyError:
            bad.add(path, offset, "HTML nested too deeply")
            return None
        if text is None:
            return None
        if "\0" in text:
            bad.add(path, offset, "NUL byte")
            return None
        uri = record.headers.get("WARC-Target-URI")
        name = f"{span.file.name}:{offset}" + f"+{within}" * (within > 0)
        return Document(text, uri or name, offset)

    def _text_of(self, record: object, content: bytes) -> str | None:
        """The text of a page, None where the record holds none."""
        headers = record.http_headers  # type: ignore[attr-defined]
        if headers is None:
            return decode(content, "utf-8")
        if headers.status_code != 200:
            return None
        kind = record.http_content_type or ""  # type: ignore[attr-defined]
        charset = record.http_charset  # type: ignore[attr-defined]
        if kind.startswith("text/plain"):
            return decode(content, charset)
        if "html" in kind:
            return text_of_html(content, charset, self._main_content)
        return None


def _runs(stream: BinaryIO, span: Span) -> Iterator["_Run"]:
    """Unbroken runs of records that begin in `span`: one, and one more after each damage (of .zst
    and .bz2, which are read whole, none)."""
    run: _PlainRun | _GzipRun
    if span.file.name.endswith(".gz"):
        pieces = pieces_from(stream, WARC_GZIP, span.start, span.end)
        while True:
            run = _GzipRun(pieces, span.end)
            yield run
            if run.resume_at is not None:
                pieces = pieces_from(stream, WARC_GZIP, run.resume_at, span.end)
            elif run.error is None:
                return
    elif is_compressed(span.file.name):
        yield _PlainRun(decompressed(stream, span.file.name), 0, 1 << 62, can_look_ahead=False)
    else:
        start = _first_record(stream, span.start, span.end)
        while start is not None:
            stream.seek(start)
            run = _PlainRun(stream, start, span.end, can_look_ahead=True)
            yield run
            if run.resume_at is None:
                return
            start = _first_record(stream, run.resume_at, span.end)


class _Run(Protocol):
    """A stream for fastwarc that ends where reading fails and keeps the error: fastwarc panics on
    an exception in its source, and takes a truncated compressed file's end for its end."""

    error: Exception | None
    resume_at: int | None
    """Byte of the file from which to look for the next record, where one could not be read."""

    def read(self, num_bytes: int) -> bytes:
        """Up to `num_bytes` of the records."""

    def tell(self) -> int:
        """Bytes that were read."""

    def is_past(self, position: int) -> bool:
        """Whether a record that begins after so many bytes belongs to the next span."""

    def is_whole(self, position: int) -> bool:
        """Whether a whole record begins after so many bytes, as far as the file can be looked at
        ahead: fastwarc reads on over some damage, and then leaves texts out."""

    def place(self, position: int | None = None) -> tuple[int, int]:
        """Where a record begins after so many bytes; without them, where reading stands: a byte of
        the file, and of a compressed file the byte of the content from there."""


class _PlainRun:
    """Records as they stand in the file."""

    def __init__(self, stream: Any, start: int, end: int, can_look_ahead: bool) -> None:
        self._stream, self._can_look_ahead = stream, can_look_ahead
        self.error: Exception | None = None
        self.resume_at: int | None = None
        self._start, self._end = start, end
        self._position = 0

    def read(self, num_bytes: int) -> bytes:
        try:
            content = bytes(self._stream.read1(num_bytes))
        except (*TRUNCATED, OSError) as error:
            self.error = error
            return b""
        self._position += len(content)
        return content

    def tell(self) -> int:
        return self._position

    def is_past(self, position: int) -> bool:
        return self._start + position >= self._end

    def is_whole(self, position: int) -> bool:
        if not self._can_look_ahead:
            return True
        now = self._stream.tell()
        result = _is_record(self._stream, self._start + position)
        self._stream.seek(now)
        return result

    def place(self, position: int | None = None) -> tuple[int, int]:
        return self._start + (self._position if position is None else position), 0


class _GzipRun:
    """The content of gzip members, up to the first that begins a record of the next span."""

    def __init__(self, pieces: Iterator[Piece], end: int) -> None:
        self.error: Exception | None = None
        self.resume_at: int | None = None
        self._pieces, self._end = pieces, end
        self._held = b""
        self._position = 0
        self._members: list[tuple[int, int]] = []
        self._last_at = 0

    def read(self, num_bytes: int) -> bytes:
        while not self._held:
            try:
                piece = next(self._pieces, None)
            except OSError as error:
                self.error = error
                return b""
            if piece is None or piece.stream_at >= max(self._end, 1):
                return b""
            if piece.error is not None:
                self.error, self._last_at = piece.error, piece.stream_at
                return b""
            if not self._members or self._members[-1][1] != piece.stream_at:
                self._members.append((self._position, piece.stream_at))
            self._held = piece.content
        content, self._held = self._held[:num_bytes], self._held[num_bytes:]
        self._position += len(content)
        return content

    def tell(self) -> int:
        return self._position

    def is_past(self, position: int) -> bool:
        return False

    def is_whole(self, position: int) -> bool:
        return True

    def place(self, position: int | None = None) -> tuple[int, int]:
        if position is None or not self._members:
            return self._last_at, 0
        while len(self._members) > 1 and self._members[1][0] <= position:
            del self._members[0]
        begin, at = self._members[0]
        return at, position - begin


def _first_record(stream: BinaryIO, start: int, end: int) -> int | None:
    """The first byte in [start, end) at which a whole record begins."""
    position = start
    while position < end:
        stream.seek(max(0, position - 2))
        before = stream.read(position - max(0, position - 2))
        window = before + stream.read(_WINDOW_BYTES + 16)
        for found in _RECORD_BEGINS.finditer(window):
            at = position - len(before) + found.start()
            after_record = at == 0 or window[: found.start()].endswith(b"\n")
            inside = position <= at < min(end, position + _WINDOW_BYTES)
            if inside and after_record and (at == 0 or _is_record(stream, at)):
                return at
        position += _WINDOW_BYTES
    return None


def _is_record(stream: BinaryIO, at: int) -> bool:
    """Whether what begins at `at` has the headers that every record has, and after its content the
    next record, or the end of the file, follows. A text about archives does not pass; a whole
    archive inside a record would."""
    stream.seek(at)
    content = stream.read(_MAX_HEAD_BYTES)
    head = _HEAD_ENDS.search(content)
    length = _CONTENT_LENGTH.search(content, 0, head.start()) if head else None
    if head is None or length is None:
        return False
    names = content[: head.start()].lower()
    if not all(name in names for name in _OTHER_HEADERS):
        return False
    stream.seek(at + head.end() + int(length[1]))
    return re.match(rb"\s*(WARC/|\Z)", stream.read(16)) is not None


def _is_nested_too_deeply(content: bytes) -> bool:
    """Whether elements lie deeper in each other than any page that people read (browsers stop at
    512): time or length of what the extractor gives grows with the square of the depth of these."""
    lowered = content.lower()
    if sum(map(lowered.count, (b"<div", b"<article", b"<ul", b"<ol"))) <= _MAX_NESTING:
        return False
    depth = deepest = 0
    for tag in _NESTING_TAGS.finditer(lowered):
        depth = max(depth - 1, 0) if tag[1] else depth + 1
        deepest = max(deepest, depth)
    return deepest > _MAX_NESTING


class NestedTooDeeplyError(ValueError):
    """Elements of a page lie too deep in each other."""


def text_of_html(content: bytes, charset: str | None = None, main_content: bool = True) -> str:
    """The readable text of an HTML page; `charset` is what its headers say. NestedTooDeeplyError
    for a page whose text would take too long to find."""
    from resiliparse.extract.html2text import extract_plain_text

    if _is_nested_too_deeply(content):
        raise NestedTooDeeplyError
    return str(extract_plain_text(decode(content, charset), main_content=main_content))


def decode(content: bytes, charset: str | None) -> str:
    """`content` as text: in the stated encoding where there is such a one, else in the one that it
    seems to be in."""
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding, map_encoding_to_html5

    stated = charset and "\0" not in charset and map_encoding_to_html5(charset, False)
    encoding = stated or detect_encoding(content) or "utf-8"
    return str(bytes_to_str(content, encoding, errors="ignore"))
