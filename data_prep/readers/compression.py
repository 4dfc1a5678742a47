"""Compressed files, decompressed chunk by chunk from their start."""

import io
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any, BinaryIO, NamedTuple, cast

import zstandard

from data_prep.readers.decompressors import (
    Bzip2Stream,
    Decompressor,
    GzipMember,
    ZstandardFrame,
    joined,
)
from data_prep.readers.files import SourceFile, Span, byte_spans

CHUNK_BYTES = 1 << 15
"""Compressed bytes that are decompressed at once. Spans of compressed files are whole chunks.
Damage costs the rest of the content of its chunk, hence a small value."""
READ_ERRORS = (EOFError, zlib.error, zstandard.ZstdError, OSError)
"""What reading and decompressing raise; bz2 raises a bare OSError for damage, see `is_damage`."""
DAMAGED_COMPRESSION = "damaged or truncated compression"
"""The reason under which damage of compressed content is counted."""

_MAX_COMPRESSED_SPANS = 8
_BUFFER_BYTES = 1 << 17

_CODECS: dict[str, tuple[Callable[[], Decompressor], bytes]] = {
    ".gz": (GzipMember, b"\0"),
    ".zst": (ZstandardFrame, b""),
    ".bz2": (Bzip2Stream, b""),
}
"""By suffix: the decompressor of a member (in zstandard a frame, in bzip2 a stream), and the bytes
that may pad it."""


def is_compressed(name: str) -> bool:
    """Whether the suffix of `name` is that of gzip, zstandard or bzip2."""
    return name.endswith(tuple(_CODECS))


def is_damage(error: BaseException) -> bool:
    """Whether `error` is due to the content of a file, not to reading it from the disk."""
    return not isinstance(error, OSError) or error.errno is None


class Chunk(NamedTuple):
    """What one raw chunk of a compressed file decompresses to; a chunk in which a member ends is
    split there, and one that expands to more than `MAX_PIECE_BYTES` into pieces of that size."""

    raw_at: int
    """Byte of the file at which the raw chunk starts; the size of the file if it is truncated."""
    content: bytes
    error: Exception | None = None
    """Damage; this is the last chunk."""


def chunks_of(stream: BinaryIO, name: str, chunk_bytes: int = CHUNK_BYTES) -> Iterator[Chunk]:
    """The content of a compressed file from its start; the chunks do not depend on who reads."""
    new_member, padding = _CODECS[name[name.rindex(".") :]]
    member: Decompressor | None = None
    raw_at = 0
    while raw := stream.read(chunk_bytes):
        if member is not None and member.eof:
            raw = raw.lstrip(padding)
        try:
            while raw:
                if member is None or member.eof:
                    member = new_member()
                for content in joined(member.pieces(raw)):
                    yield Chunk(raw_at, content)
                raw = member.unused.lstrip(padding) if member.eof else b""
        except READ_ERRORS as error:
            yield Chunk(raw_at, b"", error)
            return
        raw_at += chunk_bytes
    if member is not None and not member.eof:
        yield Chunk(raw_at, b"", EOFError("the file ends inside a compressed stream"))


def decompressed(stream: BinaryIO, name: str) -> IO[bytes]:
    """The content of a compressed file as a file object; reading it raises `Chunk.error`."""
    content = _ChunkedContent(chunks_of(stream, name))
    return cast(IO[bytes], io.BufferedReader(content, _BUFFER_BYTES))


class _ChunkedContent(io.RawIOBase):
    """Chunks as a file object."""

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


def compressed_spans(
    file: SourceFile, part_bytes: int, chunk_bytes: int = CHUNK_BYTES
) -> list[Span]:
    """A .gz or .zst file of lines as at most eight spans of whole raw chunks, none but the last
    smaller than four times `part_bytes`; a .bz2 file as one span.

    Reading a span decompresses everything before it and discards that, so n spans decompress the
    file (n + 1) / 2 times. This is cheap compared with what is done with the documents, but not for
    any n, and the last span never takes less time than decompressing the whole file: hence at most
    eight. A small file is not worth cutting, as other files run in parallel with it. Decompressing
    bzip2 takes half of the total time, too much to repeat.
    """
    if file.name.endswith(".bz2"):
        return [Span(file, 0, file.num_bytes)]
    step = max(4 * part_bytes, -(-file.num_bytes // _MAX_COMPRESSED_SPANS))
    return byte_spans(file, -(-step // chunk_bytes) * chunk_bytes)
