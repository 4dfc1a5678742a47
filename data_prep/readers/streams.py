"""Compressed files that are sequences of independent streams: bzip2 streams, gzip members, frames.

Wikipedia's multistream dumps and pbzip2 write such .bz2 files, web archives such .gz and .zst files
(a stream per record). A stream belongs to the span in which its first byte is, so that one file can
be many parts; a file of a single stream is read by its first part alone::

    file      |stream 0   |stream 1     |stream 2 |stream 3    |
    spans     [-- span 0 --)[-- span 1 ----)[---- span 2 ------)
    read by    span 0      span 0        span 1    span 2
"""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from data_prep.readers.compression import READ_ERRORS, is_damage, new_member_of
from data_prep.readers.decompressors import Decompressor, joined
from data_prep.readers.kinds import MAX_START_BYTES, MEMBER_STARTS, Compression, may_start_member
from data_prep.readers.url_stream import expect

_WINDOW_BYTES = 1 << 16
_SLICE_BYTES = 1 << 12
"""Compressed bytes that are decompressed at once. Damage costs the content of its slice; whether
reading can start at a stream is seen in the content of its first slice."""


@dataclass(frozen=True)
class Codec:
    """How the streams of a format start, and what decompresses one."""

    compression: Compression
    decompressor: Callable[[], Decompressor]
    content_start: re.Pattern[bytes] = re.compile(b"")
    """First bytes of the content of a stream at which reading can start. gzip's magic number alone
    is so short that it occurs by chance."""

    @property
    def magic(self) -> re.Pattern[bytes]:
        """First bytes of a stream."""
        return MEMBER_STARTS[self.compression]


def codec_of(raw: BinaryIO, compression: Compression, content_start: re.Pattern[bytes]) -> Codec:
    """The codec of an open file; it knows the dictionary with which the file starts, if it does."""
    new_member = new_member_of(compression)
    first = new_member()  # the frames of zstandard take the dictionary from the first one
    raw.seek(0)
    try:
        while not first.eof and (slice_ := raw.read(_SLICE_BYTES)):
            if any(first.pieces(slice_)):
                break
    except READ_ERRORS as error:
        if not is_damage(error):
            raise
    return Codec(compression, new_member, content_start)


def content_head(raw: BinaryIO, codec: Codec, num_bytes: int) -> bytes:
    """The first `num_bytes` of the content of a file; fewer if it ends or is damaged there."""
    head, at, file_bytes = b"", 0, raw.seek(0, os.SEEK_END)
    try:
        while at < file_bytes and len(head) < num_bytes:
            for content, _, after in _stream(raw, codec, at):
                head += content[:num_bytes]
                if len(head) >= num_bytes:
                    break
                at = at if after is None else after
    except READ_ERRORS as error:
        if not is_damage(error):
            raise
    return head[:num_bytes]


BZIP2 = Codec(Compression.BZIP2, new_member_of(Compression.BZIP2))


class CutStreamError(EOFError):
    """The file ends inside a compressed stream."""


class Piece(NamedTuple):
    """The next piece of content, or damage."""

    stream_at: int
    """Where in the file the last stream starts at which reading could have started: the piece
    belongs to the span that contains this byte."""
    content: bytes
    ends_file: bool = False
    """Whether this is the end of the last stream, or of a file that is cut inside it."""
    error: Exception | None = None
    """Damage; reading continues at the next stream, as it does in a part that starts there."""
    raw_at: int = 0
    raw_end: int = 0
    """The bytes [raw_at, raw_end) of the file hold this content. Of damage: they are not read."""
    ends_stream: bool = False
    """Whether this is the end of a stream, whose checksum, if it has one, is right."""


def pieces_from(raw: BinaryIO, codec: Codec, start: int, end: int) -> Iterator[Piece]:
    """The content of the span [start, end) and, for as long as the caller asks, what follows it."""
    num_bytes = raw.seek(0, os.SEEK_END)
    expect(raw, (start, end))
    at = owner = 0 if start == 0 else _first_start(raw, codec, start, end)
    while at is not None and owner is not None:
        after: int | None = None
        read_to, is_first = at, True
        try:
            for content, raw_end, after in _stream(raw, codec, at):
                if is_first and codec.content_start.match(content) and _has_magic(raw, codec, at):
                    owner = at
                if not content and after is None:
                    continue
                ends_file, ends_stream = after == num_bytes, after is not None
                yield Piece(owner, content, ends_file, None, read_to, raw_end, ends_stream)
                read_to = raw_end
        except READ_ERRORS as error:
            if not is_damage(error):
                raise
            resumed_at = _first_start(raw, codec, at + 1, num_bytes)
            lost_to = num_bytes if resumed_at is None else resumed_at
            is_cut = resumed_at is None and isinstance(error, CutStreamError)
            yield Piece(owner, b"", is_cut, error, read_to, lost_to)
            at = owner = resumed_at
            continue
        at = after if after != num_bytes else None


def _stream(raw: BinaryIO, codec: Codec, at: int) -> Iterator[tuple[bytes, int, int | None]]:
    """(content, byte of the file up to which it is read, start of the next stream) of one stream.
    The start is None before the last piece, and the size of the file if this is the last stream."""
    decompressor, position = codec.decompressor(), at
    while True:
        raw.seek(position)
        compressed = raw.read(_SLICE_BYTES)
        if not compressed:
            raw.seek(at)
            if not may_start_member(raw.read(MAX_START_BYTES), codec.compression):
                raise EOFError("what follows is not compressed")
            raise CutStreamError("the file ends inside a compressed stream")
        if position == at and compressed.startswith(b"\0"):
            raise EOFError("zeros where a compressed stream should start")
        before, position = position, position + len(compressed)
        content = b""
        for following in joined(decompressor.pieces(compressed)):
            if content:
                yield content, before, None
            content = following
        if decompressor.eof:
            stream_end = position - len(decompressor.unused)
            yield content, stream_end, _after_padding(raw, stream_end)
            return
        yield content, position, None


def _after_padding(raw: BinaryIO, at: int) -> int:
    """The size of the file if only zeros follow, which gzip itself skips; else `at`."""
    position = at
    raw.seek(at)
    while window := raw.read(_SLICE_BYTES):
        if window.strip(b"\0"):
            return at
        position += len(window)
    return position


def _first_start(raw: BinaryIO, codec: Codec, start: int, end: int) -> int | None:
    """The first byte in [start, end) at which reading can start."""
    position = start
    while position < end:
        raw.seek(position)
        window = raw.read(_WINDOW_BYTES + MAX_START_BYTES)
        for found in codec.magic.finditer(window):
            at = position + found.start()
            if found.start() < _WINDOW_BYTES and at < end and _is_start(raw, codec, at):
                return at
        if len(window) <= _WINDOW_BYTES:
            return None
        position += _WINDOW_BYTES
    return None


def _has_magic(raw: BinaryIO, codec: Codec, at: int) -> bool:
    raw.seek(at)
    return codec.magic.match(raw.read(MAX_START_BYTES)) is not None


def _is_start(raw: BinaryIO, codec: Codec, at: int) -> bool:
    """Whether a stream starts at `at` that can be read independently."""
    raw.seek(at)
    try:
        content = next(joined(codec.decompressor().pieces(raw.read(_SLICE_BYTES))))
    except READ_ERRORS as error:
        if not is_damage(error):
            raise
        return False
    return codec.content_start.match(content) is not None
