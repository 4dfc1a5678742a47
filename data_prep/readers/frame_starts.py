"""The starts of the frames of zstandard and lz4 files, by their headers and sizes.

Frames are walked from block to block, of which only the headers are read, as far as the frames say
how much content they hold. Where a zstandard file ends with a seek table (the seekable format of
its contrib folder, t2sz), that alone is read.
"""

from collections.abc import Callable, Iterator

import zstandard

from data_prep.readers.frames import (
    DICTIONARY_MAGIC,
    LZ4_MAGIC,
    ZSTANDARD_MAGIC,
    is_skippable,
)
from data_prep.readers.restarts import Restart

ReadAt = Callable[[int, int], bytes]
"""Gives a number of bytes from a byte of a file; fewer at its end."""

_FRAME_HEAD_BYTES = 18
_TABLE_MAGIC, _TABLE_END_MAGIC = b"\x5e\x2a\x4d\x18", b"\xb1\xea\x92\x8f"
_TABLE_END_BYTES = 9
_MAX_TABLE_BYTES = 1 << 30
_RLE, _RESERVED = 1, 3
_LZ4_STORED = 1 << 31


def starts_with_dictionary(read_at: ReadAt) -> bool:
    """Whether the first frame holds the dictionary of the others."""
    return read_at(0, 4) == DICTIONARY_MAGIC


def seek_table_starts(read_at: ReadAt, num_bytes: int) -> Iterator[Restart]:
    """The starts of the frames of a zstandard file by its seek table; none without one that
    describes the whole file."""
    end = read_at(num_bytes - _TABLE_END_BYTES, _TABLE_END_BYTES)
    if num_bytes < _TABLE_END_BYTES or end[5:] != _TABLE_END_MAGIC:
        return
    entry_bytes = 12 if end[4] & 0x80 else 8
    size = _uint32(end[:4]) * entry_bytes + _TABLE_END_BYTES
    table_at = num_bytes - 8 - size
    if table_at < 0 or size > _MAX_TABLE_BYTES:
        return
    table = read_at(table_at, 8 + size)
    if table[:4] != _TABLE_MAGIC or _uint32(table[4:8]) != size:
        return
    found, at, offset = [], 0, 0
    for entry in range(8, 8 + size - _TABLE_END_BYTES, entry_bytes):
        found.append(Restart(at, offset))
        at += _uint32(table[entry : entry + 4])
        offset += _uint32(table[entry + 4 : entry + 8])
    if at == table_at:
        yield from found[1:]


def zstandard_starts(read_at: ReadAt, num_bytes: int, longest: int) -> Iterator[Restart]:
    """The starts of the frames up to one that is damaged, does not say how much content it holds,
    or takes more than `longest` bytes."""
    at = offset = 0
    while at < num_bytes:
        head = read_at(at, _FRAME_HEAD_BYTES)
        if is_skippable(head):
            at += 8 + _uint32(head[4:8])
            continue
        if head[:4] != ZSTANDARD_MAGIC:
            return
        if at > 0:
            yield Restart(at, offset)
        try:
            frame = zstandard.get_frame_parameters(head)
            first_block = at + zstandard.frame_header_size(head)
        except zstandard.ZstdError:
            return
        if frame.content_size == zstandard.CONTENTSIZE_UNKNOWN:
            return
        end = _zstandard_end(read_at, first_block, min(num_bytes, at + longest))
        if end is None:
            return
        at = end + 4 * frame.has_checksum
        offset += frame.content_size


def _zstandard_end(read_at: ReadAt, at: int, limit: int) -> int | None:
    """The end of the blocks of a frame, of which the first is at `at`; None beyond `limit`."""
    while at < limit:
        header = _uint32(read_at(at, 3))
        kind = header >> 1 & 3
        if kind == _RESERVED:
            return None
        at += 3 + (1 if kind == _RLE else header >> 3)
        if header & 1:
            return at if at <= limit else None
    return None


def lz4_starts(read_at: ReadAt, num_bytes: int, longest: int) -> Iterator[Restart]:
    """As `zstandard_starts`, of an lz4 file."""
    at = offset = 0
    while at < num_bytes:
        head = read_at(at, 14)
        if is_skippable(head):
            at += 8 + _uint32(head[4:8])
            continue
        if head[:4] != LZ4_MAGIC or len(head) < 7:
            return
        if at > 0:
            yield Restart(at, offset)
        flags = head[4]
        has_block_checksums, has_size, has_checksum, has_dictionary = (
            bool(flags & bit) for bit in (0x10, 0x08, 0x04, 0x01)
        )
        if not has_size:
            return
        first_block = at + 7 + 8 + 4 * has_dictionary
        end = _lz4_end(read_at, first_block, min(num_bytes, at + longest), has_block_checksums)
        if end is None:
            return
        at = end + 4 * has_checksum
        offset += int.from_bytes(head[6:14], "little")


def _lz4_end(read_at: ReadAt, at: int, limit: int, has_checksums: bool) -> int | None:
    """As `_zstandard_end`, of an lz4 frame."""
    while at < limit:
        size = _uint32(read_at(at, 4)) & ~_LZ4_STORED
        at += 4
        if not size:
            return at
        at += size + 4 * has_checksums
    return None


def _uint32(content: bytes) -> int:
    return int.from_bytes(content, "little")
