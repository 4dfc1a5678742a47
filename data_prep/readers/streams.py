"""Compressed files that are sequences of independent streams: bzip2 streams, gzip members.

Wikipedia's multistream dumps and pbzip2 write such .bz2 files, web archives such .gz files (one
member per record). A stream belongs to the span in which its first byte is, so that one file can be
many parts; a file of a single stream is read by its first part alone::

    file      |stream 0   |stream 1     |stream 2 |stream 3    |
    spans     [-- span 0 --)[-- span 1 ----)[---- span 2 ------)
    read by    span 0      span 0        span 1    span 2
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from data_prep.readers.compression import READ_ERRORS, is_damage
from data_prep.readers.decompressors import Bzip2Stream, Decompressor, GzipMember, joined

_CHUNK_BYTES = 1 << 16
_MAX_MAGIC_BYTES = 16
_PROBE_BYTES = 1 << 12
_NOTHING = -1


@dataclass(frozen=True)
class Codec:
    """How the streams of a format start, and what decompresses one."""

    magic: re.Pattern[bytes]
    """First bytes of a stream."""
    decompressor: Callable[[], Decompressor]
    content_prefix: bytes
    """First bytes of the content of a stream at which reading can start. gzip's magic number alone
    is so short that it occurs by chance."""


BZIP2 = Codec(re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)"), Bzip2Stream, b"")
WARC_GZIP = Codec(re.compile(rb"\x1f\x8b\x08[\x00-\x1f]"), GzipMember, b"WARC/")


class Piece(NamedTuple):
    """The next piece of content."""

    stream_at: int
    """Where in the file the last stream starts at which reading could have started: the piece
    belongs to the span that contains this byte."""
    content: bytes
    ends_file: bool = False
    """Whether this is the end of the last stream."""
    error: Exception | None = None
    """Damage; reading continues at the next stream, as it does in a part that starts there."""


def pieces_from(raw: BinaryIO, codec: Codec, start: int, end: int) -> Iterator[Piece]:
    """The content of the span [start, end) and, for as long as the caller asks, what follows it."""
    at = owner = _first_start(raw, codec, start, end)
    if start == 0 and at != 0:
        yield Piece(0, b"", error=EOFError("the file does not start as its name says"))
    while at is not None and owner is not None:
        after: int | None = None
        try:
            for content, after in _stream(raw, codec, at):
                yield Piece(owner, content, ends_file=after == _NOTHING)
        except READ_ERRORS as error:
            if not is_damage(error):
                raise
            yield Piece(owner, b"", error=error)
            at = owner = _first_start(raw, codec, at + 1, end)
            continue
        at = None if after == _NOTHING else after
        if at is not None and _is_start(raw, codec, at):
            owner = at


def _stream(raw: BinaryIO, codec: Codec, at: int) -> Iterator[tuple[bytes, int | None]]:
    """(content, start of the next stream) of one stream. The start is None before the last piece,
    and _NOTHING at the end of the file."""
    decompressor, position = codec.decompressor(), at
    raw.seek(at)
    while True:
        compressed = raw.read(_CHUNK_BYTES)
        if not compressed:
            raise EOFError("the file ends inside a compressed stream")
        position += len(compressed)
        content = b""
        for following in joined(decompressor.pieces(compressed)):
            if content:
                yield content, None
            content = following
        if decompressor.eof:
            rest = decompressor.unused
            next_at = position - len(rest)
            rest = rest or raw.read(_CHUNK_BYTES)
            is_padding = not rest.strip(b"\0")  # gzip itself skips it
            yield content, _NOTHING if is_padding and not raw.read(1) else next_at
            return
        yield content, None


def _first_start(raw: BinaryIO, codec: Codec, start: int, end: int) -> int | None:
    """The first byte in [start, end) at which reading can start."""
    position = start
    while position < end:
        raw.seek(position)
        window = raw.read(_CHUNK_BYTES + _MAX_MAGIC_BYTES)
        for found in codec.magic.finditer(window):
            at = position + found.start()
            if found.start() < _CHUNK_BYTES and at < end and _is_start(raw, codec, at):
                return at
        if len(window) <= _CHUNK_BYTES:
            return None
        position += _CHUNK_BYTES
    return None


def _is_start(raw: BinaryIO, codec: Codec, at: int) -> bool:
    """Whether a stream starts at `at` that can be read independently."""
    raw.seek(at)
    compressed = raw.read(_PROBE_BYTES)
    if not codec.magic.match(compressed):
        return False
    if at == 0 or not codec.content_prefix:
        return True
    try:
        start = next(joined(codec.decompressor().pieces(compressed)))
        return start.startswith(codec.content_prefix)
    except READ_ERRORS:
        return False
