"""The content of a file: decompressed, and in UTF-8, whatever its own encoding is.

Readers open files by `open_content`. Where `Content.is_plain`, the bytes of the file are the
content, and can be read from any byte. Otherwise the content is read from its start by one reader:
the file is compressed, a member of an archive, or not in UTF-8.
"""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, BinaryIO, cast

from data_prep.readers.compression import CHUNK_BYTES, Chunk, Damage, chunks_of
from data_prep.readers.encodings import is_utf_8, transcoded
from data_prep.readers.files import SourceFile, head_of, open_file
from data_prep.readers.kinds import (
    HEAD_BYTES,
    WIDE_HEAD_BYTES,
    Compression,
    compression_by,
    encoding_by,
)
from data_prep.readers.restarts import Passages, Restart
from data_prep.readers.url_stream import expect

_BUFFER_BYTES = 1 << 17


@dataclass(frozen=True)
class MemberFile(SourceFile):
    """A member of an archive that is being read: it can be opened once, before the next one."""

    stream: io.BufferedReader = field(kw_only=True, compare=False, repr=False)
    """Its bytes, from their start; its buffer holds `HEAD_BYTES`."""
    check: Callable[[bytes], None] = field(kw_only=True, compare=False, repr=False)
    """Raises for the first bytes of its content, decompressed, if that cannot be read."""


@dataclass(frozen=True)
class FileKind:
    """What is known of the content of a file from its first bytes."""

    compression: Compression | None
    is_plain: bool
    """See `Content.is_plain`."""


def kind_of(file: SourceFile, encoding: str | None = None) -> FileKind:
    """The kind of a file that lies by itself, for its spans."""
    return _kind_by(head_of(file, HEAD_BYTES), file, encoding)


def _kind_by(head: bytes, file: SourceFile, encoding: str | None) -> FileKind:
    compression = compression_by(head, file.name)
    encoding = encoding or encoding_by(head)
    is_plain = compression is None and not isinstance(file, MemberFile) and is_utf_8(encoding)
    return FileKind(compression, is_plain)


class Content:
    """The content of an open file."""

    def __init__(
        self, file: SourceFile, raw: BinaryIO, head: bytes, encoding: str | None = None
    ) -> None:
        self.file = file
        self.raw = raw
        """The bytes of the file. They can be sought, unless the file is a member of an archive."""
        kind = _kind_by(head, file, encoding)
        self.compression, self.is_plain = kind.compression, kind.is_plain
        self.is_member = isinstance(file, MemberFile)
        self._encoding = encoding
        self._ahead: Iterator[Chunk] | None = None
        """The chunks, once the first ones were looked at."""

    def chunks_from(
        self, restart: Restart | None, passages: Passages, chunk_bytes: int = CHUNK_BYTES
    ) -> Iterator[Chunk]:
        """The chunks of a compressed file in UTF-8 from a restart, or its start."""
        self.raw.seek(restart.raw_at if restart else 0)
        return chunks_of(self.raw.read, self.compression, chunk_bytes, restart, passages)

    def chunks(self, chunk_bytes: int = CHUNK_BYTES) -> Iterator[Chunk]:
        """The content from its start; the chunks do not depend on who reads."""
        if self._ahead is not None:
            chunks, self._ahead = self._ahead, None
            return chunks
        read = self.raw.read
        if isinstance(self.file, MemberFile):
            read = self.file.stream.read1  # what precedes damage of the archive is not lost
        else:
            self.raw.seek(0)
        return transcoded(chunks_of(read, self.compression, chunk_bytes), self._encoding)

    def head(self, num_bytes: int, chunk_bytes: int = CHUNK_BYTES) -> bytes:
        """At least the first `num_bytes` of the content as far as it is whole; the content is still
        read from its start. `chunk_bytes` is what `chunks` is called with."""
        chunks, first, head = self.chunks(chunk_bytes), [], bytearray()
        for chunk in chunks:
            first.append(chunk)
            head += chunk.content
            if len(head) >= num_bytes or chunk.error is not None:
                break
        self._ahead = chain(first, chunks)
        return bytes(head)

    def stream(self) -> io.BufferedReader:
        """The content from its start as a file object, up to the first damage, which reading it
        raises (`Damage`)."""
        expect(self.raw, (0, self.file.num_bytes))
        raw = _ChunkedContent(self.chunks(), self.file.num_bytes)
        return io.BufferedReader(raw, _BUFFER_BYTES)


@contextmanager
def open_content(file: SourceFile, encoding: str | None = None) -> Iterator[Content]:
    """The content of `file`, in UTF-8; raises UserError if it has changed since it was listed.

    `encoding` is that of the file; without it, a byte order mark decides, or else it is UTF-8.
    """
    if isinstance(file, MemberFile):
        head = head_of_member(file.stream)
        content = Content(file, cast(BinaryIO, file.stream), head, encoding)
        if content.compression is not None:
            file.check(content.head(HEAD_BYTES)[:HEAD_BYTES])
        yield content
        return
    with open_file(file) as stream:
        head = stream.read(HEAD_BYTES)
        stream.seek(0)
        yield Content(file, stream, head, encoding)


def head_of_member(stream: io.BufferedReader) -> bytes:
    """The next bytes of a stream, without reading them; none where it is damaged."""
    try:
        return stream.peek(HEAD_BYTES)[:HEAD_BYTES]
    except Damage:
        return b""


def content_is_utf_8(file: SourceFile, encoding: str | None = None) -> bool:
    """Whether the content of a compressed file is in UTF-8, by its byte order mark where the
    `encoding` does not say it."""
    if encoding is not None:
        return is_utf_8(encoding)
    with open_content(file, "utf-8") as content:
        return encoding_by(content.head(WIDE_HEAD_BYTES, HEAD_BYTES)) is None


class _ChunkedContent(io.RawIOBase):
    """Chunks as a file object."""

    def __init__(self, chunks: Iterator[Chunk], file_bytes: int) -> None:
        self._chunks, self._file_bytes = chunks, file_bytes
        self._pending = memoryview(b"")
        self._damage: Damage | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._pending:
            if self._damage is not None:
                raise self._damage
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            if chunk.error is not None:
                error = chunk.error
                lost_from = chunk.raw_at if error.lost_from is None else error.lost_from
                lost_bytes = error.lost_bytes and self._file_bytes - lost_from
                self._damage = Damage(str(error), lost_bytes, error.is_cut, error.reason)
                continue
            self._pending = memoryview(chunk.content)
        num_bytes = min(len(buffer), len(self._pending))
        buffer[:num_bytes] = self._pending[:num_bytes]
        self._pending = self._pending[num_bytes:]
        return num_bytes
