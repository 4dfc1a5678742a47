"""Compressed files as streams of decompressed chunks."""

import bz2
import io
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any, BinaryIO, NamedTuple, cast

import zstandard

from data_prep.readers.files import SourceFile, Span, byte_spans

TRUNCATED = (EOFError, zlib.error, zstandard.ZstdError)
"""What a decompressor raises for damaged or truncated input; bz2 raises a bare OSError besides."""
CHUNK_BYTES = 1 << 15
"""Compressed bytes that are decompressed at once. Spans of compressed files are made of such
chunks. All that comes of the member in a chunk with damage is lost, so that chunks are small."""

_MAX_COMPRESSED_SPANS = 8

_CODECS: dict[str, tuple[Callable[[], Any], bytes]] = {
    ".gz": (lambda: zlib.decompressobj(31), b"\0"),
    ".zst": (lambda: zstandard.ZstdDecompressor().decompressobj(), b""),
    ".bz2": (bz2.BZ2Decompressor, b""),
}
"""What decompresses a member (gzip's word; a frame, a stream), and what may pad it, by suffix."""


def is_compressed(name: str) -> bool:
    """Whether the name says gzip, zstandard or bzip2: such a file is read from its beginning."""
    return name.endswith(tuple(_CODECS))


class Chunk(NamedTuple):
    """What a raw chunk of a compressed file becomes, or a part of that: members end in it."""

    raw_at: int
    """Where in the file the raw chunk begins; the end of the file where that is the damage."""
    content: bytes
    error: Exception | None = None
    """Damage: nothing follows."""


def chunks_of(stream: BinaryIO, name: str) -> Iterator[Chunk]:
    """The content of a compressed file from its beginning, the same chunks whoever reads it."""
    new_member, padding = _CODECS[name[name.rindex(".") :]]
    member = None
    raw_at = 0
    while raw := stream.read(CHUNK_BYTES):
        if member is not None and member.eof:
            raw = raw.lstrip(padding)
        try:
            while raw:
                if member is None or member.eof:
                    member = new_member()
                yield Chunk(raw_at, member.decompress(raw))
                raw = member.unused_data.lstrip(padding) if member.eof else b""
        except (*TRUNCATED, OSError) as error:
            yield Chunk(raw_at, b"", error)
            return
        raw_at += CHUNK_BYTES
    if member is not None and not member.eof:
        yield Chunk(raw_at, b"", EOFError("the file ends inside a compressed stream"))


def decompressed(stream: BinaryIO, name: str) -> IO[bytes]:
    """The content of a compressed file as a file; reading it raises `Chunk.error`."""
    return cast(IO[bytes], io.BufferedReader(_Content(chunks_of(stream, name)), 1 << 17))


class _Content(io.RawIOBase):
    """Chunks as a file."""

    def __init__(self, chunks: Iterator[Chunk]) -> None:
        self._chunks = chunks
        self._pending = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._pending:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            if chunk.error is not None:
                raise chunk.error
            self._pending = memoryview(chunk.content)
        num_bytes = min(len(buffer), len(self._pending))
        buffer[:num_bytes] = self._pending[:num_bytes]
        self._pending = self._pending[num_bytes:]
        return num_bytes


def is_damage(error: BaseException) -> bool:
    """Whether `error` is about a file's content, not about reading it from the disk."""
    return not isinstance(error, OSError) or error.errno is None


def compressed_spans(file: SourceFile, part_bytes: int) -> list[Span]:
    """A .gz or .zst `file` of lines cut into at most eight spans of whole raw chunks, none but the
    last under four `part_bytes`; a .bz2 file as one span.

    A part decompresses what is before it and throws that away, so that n parts decompress the file
    (n + 1) / 2 times. That is cheap beside what is done with the documents, but not for any n, and
    the last part never takes less than decompressing the whole file. Hence eight; and a small file
    is not worth it, as other files make parts beside it. Decompressing bzip2 takes half of all
    time, too much to do it again.
    """
    if file.name.endswith(".bz2"):
        return [Span(file, 0, file.num_bytes)]
    step = max(4 * part_bytes, -(-file.num_bytes // _MAX_COMPRESSED_SPANS))
    return byte_spans(file, -(-step // CHUNK_BYTES) * CHUNK_BYTES)
