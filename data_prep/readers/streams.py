"""Compressed files that are rows of streams, each readable by itself: bzip2 streams, gzip members.

Wikipedia's multistream dumps and pbzip2 write such .bz2 files, web archives such .gz files (a
member a record). A stream belongs to the span in which its first byte lies, so that one file is
many parts; a file of one stream is read whole by its first part.
"""

import bz2
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

from data_prep.readers.compression import TRUNCATED, is_damage

_CHUNK_BYTES = 1 << 16
_MAX_MAGIC_BYTES = 16
_PROBE_BYTES = 1 << 12
_NOTHING = -1


@dataclass(frozen=True)
class Codec:
    """How the streams of a format begin, and what reads one."""

    magic: re.Pattern[bytes]
    decompressor: Callable[[], Any]
    begins: bytes
    """What the content of a stream begins with where reading can begin. gzip's own mark is short
    enough to occur by chance; together with this it is not."""


BZIP2 = Codec(re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)"), bz2.BZ2Decompressor, b"")
WARC_GZIP = Codec(re.compile(rb"\x1f\x8b\x08[\x00-\x1f]"), lambda: zlib.decompressobj(31), b"WARC/")


class Piece(NamedTuple):
    """Some content, in order."""

    stream_at: int
    """Where in the file the last stream begins at which reading could have begun: the piece belongs
    to the span in which that lies."""
    content: bytes
    ends_file: bool = False
    """Whether this is the end of the last stream."""
    error: Exception | None = None
    """Damage; reading goes on at the next stream, as it does in a part that begins there."""


def pieces_from(raw: BinaryIO, codec: Codec, start: int, end: int) -> Iterator[Piece]:
    """The content of the span [start, end), and what follows it for as long as one asks."""
    at = owner = _first_start(raw, codec, start, end)
    if start == 0 and at != 0:
        yield Piece(0, b"", error=EOFError("the file does not begin as its name says"))
    while at is not None and owner is not None:
        after: int | None = None
        try:
            for content, after in _stream(raw, codec, at):
                yield Piece(owner, content, ends_file=after == _NOTHING)
        except (*TRUNCATED, OSError) as error:
            if not is_damage(error):
                raise
            yield Piece(owner, b"", error=error)
            at = owner = _first_start(raw, codec, at + 1, end)
            continue
        at = None if after == _NOTHING else after
        if at is not None and _is_start(raw, codec, at):
            owner = at


def _stream(raw: BinaryIO, codec: Codec, at: int) -> Iterator[tuple[bytes, int | None]]:
    """(content, where the stream after this one begins) of one stream, the latter at its end:
    _NOTHING after the last."""
    decompressor, position = codec.decompressor(), at
    raw.seek(at)
    while True:
        compressed = raw.read(_CHUNK_BYTES)
        if not compressed:
            raise EOFError("the file ends inside a compressed stream")
        position += len(compressed)
        content = decompressor.decompress(compressed)
        if decompressor.eof:
            rest = decompressor.unused_data
            next_at = position - len(rest)
            rest = rest or raw.read(_CHUNK_BYTES)
            is_padding = not rest.strip(b"\0")  # gzip itself passes over it
            yield content, _NOTHING if is_padding and not raw.read(1) else next_at
            return
        yield content, None


def _first_start(raw: BinaryIO, codec: Codec, start: int, end: int) -> int | None:
    """The first byte in [start, end) at which reading can begin."""
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
    """Whether a stream begins at `at` that can be read by itself."""
    raw.seek(at)
    compressed = raw.read(_PROBE_BYTES)
    if not codec.magic.match(compressed):
        return False
    if at == 0 or not codec.begins:
        return True
    try:
        return bool(codec.decompressor().decompress(compressed).startswith(codec.begins))
    except (*TRUNCATED, OSError):
        return False
