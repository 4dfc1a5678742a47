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
from data_prep.readers.frames import Lz4Frame, ZstandardFrames
from data_prep.readers.kinds import (
    MAX_START_BYTES,
    RESUME_STARTS,
    Compression,
    may_start_member,
)
from data_prep.readers.restarts import Passages, Restart
from data_prep.readers.xz_blocks import END_MARK, MAX_TAIL_BYTES, XzBlocks

CHUNK_BYTES = 1 << 15
"""Compressed bytes that are decompressed at once. Spans of compressed files are whole chunks.
Damage costs the rest of the content of its chunk, hence a small value."""
DAMAGED_COMPRESSION = "damaged or truncated compression"
"""The reason under which damage of compressed content is counted."""

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
    read: Callable[[int], bytes],
    compression: Compression | None,
    chunk_bytes: int = CHUNK_BYTES,
    restart: Restart | None = None,
    passages: Passages | None = None,
) -> Iterator[Chunk]:
    """The content of a file from its start, or from a `restart`; the chunks do not depend on who
    reads, nor on where reading started.

    `read` gives the next bytes of the file, up to a number. After damage, reading continues at the
    next member. Parts of the file that are passed are noted in `passages`.
    """
    raw = _RawChunks(read, chunk_bytes, restart.raw_at if restart else 0)
    if compression is None:
        yield from starmap(Chunk, raw)
    else:
        yield from _Members(raw, compression, restart, passages).chunks()
    if raw.damage is not None:
        yield Chunk(raw.position, b"", raw.damage)


class _RawChunks:
    """(byte at which it starts, raw chunk) of a file; reading a member of an archive raises
    `Damage` where that archive is damaged."""

    def __init__(self, read: Callable[[int], bytes], chunk_bytes: int, position: int = 0) -> None:
        self._read, self._chunk_bytes = read, chunk_bytes
        self.position = position
        """Byte of the file up to which it is read."""
        self.damage: Damage | None = None

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        after_start = self.position % self._chunk_bytes
        while True:
            try:
                raw = self._read(self._chunk_bytes - after_start)
            except Damage as damage:
                self.damage = damage
                return
            if not raw:
                return
            at, self.position = self.position - after_start, self.position + len(raw)
            after_start = 0
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

    def __init__(
        self,
        raw: _RawChunks,
        compression: Compression,
        restart: Restart | None,
        passages: Passages | None,
    ) -> None:
        self._raw, self._passages = raw, passages
        self._offset = restart.offset if restart else 0
        """Bytes of the content before what is decompressed next."""
        self._new_member = new_member_of(compression, is_file_start=restart is None)
        self._start = RESUME_STARTS[compression]
        self._padding = _PADDING.get(compression, b"")
        self._compression = compression
        self._member: Decompressor | None = None
        self._member_head, self._member_at, self._member_chunk_at = b"", 0, 0
        """Its first bytes, where it starts, and the start of the chunk that this is in."""
        self._has_content = False
        """Whether it gave content."""
        self._member_offset, self._tail = 0, b""
        """Bytes of the content before it, and the last bytes of the file that it was given."""
        self._damage: _DamageFound | None = None
        self._before = b""
        """Of a member that is looked for: the last bytes before the chunk, which may start it."""
        self._not_given = b""
        """What was left of the chunk when the member ended before all of it was given to it."""
        if restart is not None and restart.xz is not None:
            self._member, self._has_content = XzBlocks(restart.xz, restart.raw_at), True
            self._member_head = restart.xz.header
            self._member_offset = restart.offset - restart.xz.content_before

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
        end = self._raw.position
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
                self._member_offset = self._offset
                if self._passages is not None:
                    self._passages.at_member(member_at, self._offset)
            else:
                member_at = None
            if len(self._member_head) < MAX_START_BYTES:
                self._member_head += raw[:MAX_START_BYTES]
            try:
                for content in joined(self._pieces(raw, end - len(raw))):
                    self._has_content = self._has_content or bool(content)
                    self._offset += len(content)
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
            raw = self._member.unused + self._not_given if self._member.eof else b""
            raw = raw.lstrip(self._padding) if self._padding else raw

    def _pieces(self, raw: bytes, raw_at: int) -> Iterator[bytes]:
        """What `raw`, which is at the byte `raw_at` of the file, decompresses to; notes how much
        content precedes the blocks within an xz stream that are passed."""
        member, passages = self._member, self._passages
        assert member is not None
        self._not_given, offset = b"", self._offset
        if passages is None or not passages.blocks:
            yield from member.pieces(raw)
            return
        for restart in passages.blocks:
            at, rest = restart.raw_at, restart.xz
            if rest is None or not raw_at <= at < raw_at + len(raw):
                continue
            before, raw, raw_at = raw[: at - raw_at], raw[at - raw_at :], at
            for piece in member.pieces(before) if before else ():
                offset += len(piece)
                yield piece
            if member.eof:
                self._not_given = raw
                return
            self._tail = (self._tail + before)[-MAX_TAIL_BYTES:]
            is_whole = offset - self._member_offset == rest.content_before
            if is_whole and self._tail[rest.end_mark_at - at :][:1] == END_MARK:
                passages.at_block(at, offset)
        self._tail = (self._tail + raw)[-MAX_TAIL_BYTES:]
        yield from member.pieces(raw)

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


def new_member_of(
    compression: Compression, is_file_start: bool = True
) -> Callable[[], Decompressor]:
    """Makes the decompressors of the members of one file, one after another.

    `is_file_start` says whether the first of them is the first one of the file.
    """
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
            return ZstandardFrames(is_file_start)
