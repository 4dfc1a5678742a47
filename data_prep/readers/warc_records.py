"""Finds the records of WARC files, for fastwarc to read: from any cut, and on after damage.

fastwarc reads a stream from its start and ends at the first damage. So the records of a span are
given to it as sequences: streams that start at a whole record and end before the next damage.
"""

import re
from collections.abc import Iterator
from typing import Any, BinaryIO, Protocol

from data_prep.readers.compression import READ_ERRORS
from data_prep.readers.content import Content
from data_prep.readers.files import Span
from data_prep.readers.kinds import Compression
from data_prep.readers.streams import WARC_GZIP, Piece, pieces_from

MANDATORY_HEADERS = ("WARC-Type", "WARC-Record-ID", "WARC-Date", "Content-Length")
_RECORD_START = re.compile(rb"WARC/\d\.\d\r?\n")
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_CONTENT_LENGTH = re.compile(rb"\ncontent-length:\s*(\d+)", re.IGNORECASE)
_OTHER_HEADERS = tuple(f"\n{name.lower()}:".encode() for name in MANDATORY_HEADERS[:3])
_WINDOW_BYTES, _MAX_HEAD_BYTES = 1 << 20, 1 << 14


class RecordSequence(Protocol):
    """An uninterrupted sequence of records, as a stream for fastwarc.

    The stream ends where reading fails, and keeps the error: fastwarc panics if its source raises,
    and takes the end of a truncated compressed file for the end of the archive.
    """

    error: Exception | None
    """The error that ended the stream."""
    resume_at: int | None
    """Byte of the file at which to look for the next sequence; set by whoever finds damage."""

    def read(self, num_bytes: int) -> bytes:
        """Up to `num_bytes` of the records."""

    def tell(self) -> int:
        """Bytes read so far."""

    def is_after_span(self, position: int) -> bool:
        """Whether a record at byte `position` of the stream belongs to the next span."""

    def is_whole(self, position: int) -> bool:
        """Whether a whole record starts at byte `position` of the stream, if the file can be read
        ahead: fastwarc reads on over some kinds of damage, and then loses texts."""

    def place(self, position: int | None = None) -> tuple[int, int]:
        """Where byte `position` of the stream (by default, the end of what was read) is in the
        file: the byte of the file and 0 or, if compressed, the byte at which its member starts and
        the byte of the member's content."""


def record_sequences(content: Content, span: Span) -> Iterator[RecordSequence]:
    """The sequences of records that start in `span`: one, and another one after each damage (not in
    .zst and .bz2 files, which are read as a whole)."""
    if content.is_plain:
        yield from _plain_sequences(content.raw, span)
    elif content.compression is Compression.GZIP and not content.is_member:
        yield from _gzip_sequences(content.raw, span)
    else:
        yield PlainRecords(content.stream(), 0, 1 << 62, can_read_ahead=False)


def _gzip_sequences(stream: BinaryIO, span: Span) -> Iterator[RecordSequence]:
    pieces = pieces_from(stream, WARC_GZIP, span.start, span.end)
    while True:
        records = GzipRecords(pieces, span.end)
        yield records
        if records.resume_at is not None:
            pieces = pieces_from(stream, WARC_GZIP, records.resume_at, span.end)
        elif records.error is None:
            return


def _plain_sequences(stream: BinaryIO, span: Span) -> Iterator[RecordSequence]:
    start = first_record(stream, span.start, span.end)
    while start is not None:
        stream.seek(start)
        records = PlainRecords(stream, start, span.end, can_read_ahead=True)
        yield records
        if records.resume_at is None:
            return
        start = first_record(stream, records.resume_at, span.end)


class PlainRecords:
    """Records that follow each other in a file (of a decompressed file: from its start)."""

    def __init__(self, stream: Any, start: int, end: int, can_read_ahead: bool) -> None:
        self._stream, self._can_read_ahead = stream, can_read_ahead
        self.error: Exception | None = None
        self.resume_at: int | None = None
        self._start, self._end = start, end
        self._position = 0

    def read(self, num_bytes: int) -> bytes:
        """See `RecordSequence`."""
        try:
            content = bytes(self._stream.read1(num_bytes))
        except READ_ERRORS as error:
            self.error = error
            return b""
        self._position += len(content)
        return content

    def tell(self) -> int:
        """See `RecordSequence`."""
        return self._position

    def is_after_span(self, position: int) -> bool:
        """See `RecordSequence`."""
        return self._start + position >= self._end

    def is_whole(self, position: int) -> bool:
        """See `RecordSequence`."""
        if not self._can_read_ahead:
            return True
        now = self._stream.tell()
        result = _is_record(self._stream, self._start + position)
        self._stream.seek(now)
        return result

    def place(self, position: int | None = None) -> tuple[int, int]:
        """See `RecordSequence`."""
        return self._start + (self._position if position is None else position), 0


class GzipRecords:
    """The content of gzip members, up to the first that starts a record of the next span."""

    def __init__(self, pieces: Iterator[Piece], end: int) -> None:
        self.error: Exception | None = None
        self.resume_at: int | None = None
        self._pieces, self._end = pieces, end
        self._held = b""
        self._position = 0
        self._members: list[tuple[int, int]] = []
        """(byte of the stream, byte of the file) at which members start, from the current one."""
        self._damage_at = 0

    def read(self, num_bytes: int) -> bytes:
        """See `RecordSequence`."""
        while not self._held:
            try:
                piece = next(self._pieces, None)
            except OSError as error:
                self.error = error
                return b""
            if piece is None or piece.stream_at >= max(self._end, 1):
                return b""
            if piece.error is not None:
                self.error, self._damage_at = piece.error, piece.stream_at
                return b""
            if not self._members or self._members[-1][1] != piece.stream_at:
                self._members.append((self._position, piece.stream_at))
            self._held = piece.content
        content, self._held = self._held[:num_bytes], self._held[num_bytes:]
        self._position += len(content)
        return content

    def tell(self) -> int:
        """See `RecordSequence`."""
        return self._position

    def is_after_span(self, position: int) -> bool:
        """See `RecordSequence`; `read` ends before such a record."""
        return False

    def is_whole(self, position: int) -> bool:
        """See `RecordSequence`; gzip's checksums find damage."""
        return True

    def place(self, position: int | None = None) -> tuple[int, int]:
        """See `RecordSequence`."""
        if position is None or not self._members:
            return self._damage_at, 0
        while len(self._members) > 1 and self._members[1][0] <= position:
            del self._members[0]
        start, at = self._members[0]
        return at, position - start


def first_record(stream: BinaryIO, start: int, end: int) -> int | None:
    """The first byte in [start, end) at which a whole record starts."""
    position = start
    while position < end:
        stream.seek(max(0, position - 2))
        before = stream.read(position - max(0, position - 2))
        window = before + stream.read(_WINDOW_BYTES + 16)
        for found in _RECORD_START.finditer(window):
            at = position - len(before) + found.start()
            is_after_record = at == 0 or window[: found.start()].endswith(b"\n")
            is_inside = position <= at < min(end, position + _WINDOW_BYTES)
            if is_inside and is_after_record and (at == 0 or _is_record(stream, at)):
                return at
        position += _WINDOW_BYTES
    return None


def _is_record(stream: BinaryIO, at: int) -> bool:
    """Whether what starts at `at` has the headers of a record, and its content is followed by the
    next record or the end of the file. A text about archives does not pass; a whole archive inside
    a record would."""
    stream.seek(at)
    content = stream.read(_MAX_HEAD_BYTES)
    head = _HEAD_END.search(content)
    length = _CONTENT_LENGTH.search(content, 0, head.start()) if head else None
    if head is None or length is None:
        return False
    names = content[: head.start()].lower()
    if not all(name in names for name in _OTHER_HEADERS):
        return False
    stream.seek(at + head.end() + int(length[1]))
    return re.match(rb"\s*(WARC/|\Z)", stream.read(16)) is not None
