"""Compressed files, decompressed chunk by chunk from their start."""

import lzma
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import starmap
from typing import NamedTuple

import zstandard

from data_prep.readers.decompressors import (
    Bzip2Stream,
    Decompressor,
    GzipMember,
    XzStream,
    joined,
)
from data_prep.readers.document import BadRecords
from data_prep.readers.files import SourceFile, Span, byte_spans
from data_prep.readers.frames import Lz4Frame, ZstandardFrames
from data_prep.readers.kinds import (
    MAX_START_BYTES,
    RESUME_STARTS,
    Compression,
    may_start_member,
)

CHUNK_BYTES = 1 << 15
"""Compressed bytes that are decompressed at once. Spans of compressed files are whole chunks.
Damage costs the rest of the content of its chunk, hence a small value."""
DAMAGED_COMPRESSION = "damaged or truncated compression"
"""The reason under which damage of compressed content is counted."""

_MAX_COMPRESSED_SPANS = 8
_SLOW = (Compression.BZIP2, Compression.XZ, Compression.LZMA)
"""What takes so long to decompress that no part of it is decompressed twice."""
_PADDING = {Compression.GZIP: b"\0", Compression.XZ: b"\0"}
"""Bytes that may follow a member."""


class Damage(Exception):
    """Damage of a compressed file or an archive; its text says of which kind."""

    def __init__(
        self,
        detail: str,
        lost_bytes: int,
        is_cut: bool = False,
        reason: str = DAMAGED_COMPRESSION,
        lost_from: int | None = None,
    ) -> None:
        """`lost_from` is the byte of the compressed file at which it starts, where that is known to
        be after the start of its chunk."""
        super().__init__(detail)
        self.reason, self.lost_from = reason, lost_from
        self.lost_bytes, self.is_cut = lost_bytes, is_cut
        self._is_counted = False

    def count(self, bad: BadRecords, path: str, offset: int) -> None:
        """Counts it, once: the file ends too early, or bytes of it cannot be read."""
        if self._is_counted:
            return
        self._is_counted = True
        add = bad.add_cut if self.is_cut else bad.add_damage
        add(path, offset, self.reason, str(self), self.lost_bytes)


READ_ERRORS = (EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError, OSError, Damage)
"""What reading and decompressing raise; bz2 raises a bare OSError for damage, see `is_damage`."""


def is_damage(error: BaseException) -> bool:
    """Whether `error` is due to the content of a file, not to reading it from the disk."""
    return not isinstance(error, OSError) or error.errno is None


class Chunk(NamedTuple):
    """What one raw chunk of a compressed file decompresses to; a chunk in which a member ends is
    split there, and one that expands to more than `MAX_PIECE_BYTES` into pieces of that size."""

    raw_at: int
    """Byte of the file at which the raw chunk starts; the size of the file if it is truncated."""
    content: bytes
    error: Damage | None = None
    """Damage: content is missing here. Chunks that follow are those of a later member."""


def chunks_of(
    read: Callable[[int], bytes], compression: Compression | None, chunk_bytes: int = CHUNK_BYTES
) -> Iterator[Chunk]:
    """The content of a file from its start; the chunks do not depend on who reads.

    `read` gives the next bytes of the file, up to a number.

    After damage, reading continues at the next member.
    """
    raw = _RawChunks(read, chunk_bytes)
    if compression is None:
        yield from starmap(Chunk, raw)
    else:
        yield from _Members(raw, compression).chunks()
    if raw.damage is not None:
        yield Chunk(raw.position, b"", raw.damage)


class _RawChunks:
    """(byte at which it starts, raw chunk) of a file; reading a member of an archive raises
    `Damage` where that archive is damaged."""

    def __init__(self, read: Callable[[int], bytes], chunk_bytes: int) -> None:
        self._read, self._chunk_bytes = read, chunk_bytes
        self.position = 0
        """Bytes read so far."""
        self.damage: Damage | None = None

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        while True:
            try:
                raw = self._read(self._chunk_bytes)
            except Damage as damage:
                self.damage = damage
                return
            if not raw:
                return
            at, self.position = self.position, self.position + len(raw)
            yield at, raw


@dataclass
class _DamageFound:
    """A damage whose end is not known yet."""

    raw_at: int
    """The chunk that holds it."""
    lost_from: int
    error: Exception


class _Members:
    """The members of a compressed file."""

    def __init__(self, raw: _RawChunks, compression: Compression) -> None:
        self._raw = raw
        self._new_member: Callable[[], Decompressor] = new_member_of(compression)
        self._start = RESUME_STARTS[compression]
        self._padding = _PADDING.get(compression, b"")
        self._compression = compression
        self._member: Decompressor | None = None
        self._member_head, self._member_at, self._member_chunk_at = b"", 0, 0
        """Its first bytes, where it starts, and the start of the chunk that this is in."""
        self._has_content = False
        """Whether it gave content."""
        self._damage: _DamageFound | None = None
        self._before = b""
        """Of a member that is looked for: the last bytes before the chunk, which may start it."""

    def chunks(self) -> Iterator[Chunk]:
        """The content and the damage."""
        for raw_at, raw in self._raw:
            yield from self._chunk(raw_at, raw)
        if self._damage is not None:
            yield self._end_of_damage(self._raw.position)
        elif self._member is not None and not self._member.eof and self._raw.damage is None:
            yield self._end_within_member()

    def _end_within_member(self) -> Chunk:
        end, at = self._raw.position, self._member_at
        if may_start_member(self._member_head, self._compression):
            damage = Damage("the file ends inside a compressed stream", 0, is_cut=True)
            return Chunk(end, b"", damage)
        # A few bytes after the last member, in which no decompressor saw an error yet.
        damage = Damage("what follows is not compressed", end - at, lost_from=at)
        return Chunk(self._member_chunk_at, b"", damage)

    def _chunk(self, raw_at: int, raw: bytes) -> Iterator[Chunk]:
        end = raw_at + len(raw)
        if self._member is not None and self._member.eof:
            raw = raw.lstrip(self._padding) if self._padding else raw
        while raw:
            if self._damage is not None:
                raw = self._from_next_member(raw)
                if not raw:
                    return
                yield self._end_of_damage(end - len(raw))
            if self._member is None or self._member.eof:
                self._member, self._member_head = self._new_member(), b""
                member_at = self._member_at = end - len(raw)
                self._member_chunk_at, self._has_content = raw_at, False
            else:
                member_at = None
            if len(self._member_head) < MAX_START_BYTES:
                self._member_head += raw[:MAX_START_BYTES]
            try:
                for content in joined(self._member.pieces(raw)):
                    self._has_content = self._has_content or bool(content)
                    yield Chunk(raw_at, content)
            except READ_ERRORS as error:
                if not is_damage(error):
                    raise
                is_within = member_at is None and self._has_content
                lost_from = raw_at if is_within else self._member_at
                self._damage = _DamageFound(raw_at, lost_from, error)
                self._member, self._before = None, b""
                raw = raw if member_at is None else raw[1:]
                continue
            raw = self._member.unused if self._member.eof else b""
            raw = raw.lstrip(self._padding) if self._padding else raw

    def _end_of_damage(self, end: int) -> Chunk:
        damage, self._damage = self._damage, None
        assert damage is not None
        lost_from = damage.lost_from
        lost = Damage(str(damage.error), end - lost_from, lost_from=lost_from)
        return Chunk(damage.raw_at, b"", lost)

    def _from_next_member(self, raw: bytes) -> bytes:
        """What is known of the next member after damage, or nothing."""
        window = self._before + raw
        for found in self._start.finditer(window):
            if _is_readable(self._new_member(), window[found.start() :]):
                self._before = b""
                return window[found.start() :]
        self._before = window[max(0, len(window) - MAX_START_BYTES + 1) :]
        return b""


def _is_readable(member: Decompressor, raw: bytes) -> bool:
    """Whether `raw` is the start of a member; a magic number also occurs by chance."""
    try:
        for _ in member.pieces(raw):
            pass
    except READ_ERRORS:
        return False
    return True


def new_member_of(compression: Compression) -> Callable[[], Decompressor]:
    """Makes the decompressors of the members of one file, one after another."""
    match compression:
        case Compression.GZIP:
            return GzipMember
        case Compression.BZIP2:
            return Bzip2Stream
        case Compression.XZ:
            return XzStream
        case Compression.LZMA:
            return lambda: XzStream(lzma.FORMAT_ALONE)
        case Compression.LZ4:
            return Lz4Frame
        case Compression.ZSTANDARD:
            return ZstandardFrames()


def compressed_spans(
    file: SourceFile,
    compression: Compression | None,
    part_bytes: int,
    chunk_bytes: int = CHUNK_BYTES,
) -> list[Span]:
    """A file of lines that is read from its start as at most eight spans of whole raw chunks, none
    but the last smaller than four times `part_bytes`; a bzip2 or xz file as one span.

    Reading a span decompresses everything before it and discards that, so n spans decompress the
    file (n + 1) / 2 times. This is cheap compared with what is done with the documents, but not for
    any n, and the last span never takes less time than decompressing the whole file: hence at most
    eight. A small file is not worth cutting, as other files run in parallel with it. Decompressing
    bzip2 takes half of the total time, too much to repeat.
    """
    if compression in _SLOW:
        return [Span(file, 0, file.num_bytes)]
    step = max(4 * part_bytes, -(-file.num_bytes // _MAX_COMPRESSED_SPANS))
    return byte_spans(file, -(-step // chunk_bytes) * chunk_bytes)
