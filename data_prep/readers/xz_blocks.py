"""The blocks of xz files, by the index at the end of each stream (the .xz file format, 1.2.1).

A stream is a header, blocks, an index of their sizes, and a footer; a file is one or more streams,
with padding between them. ``xz -T`` writes blocks that can be decompressed independently.
"""

import lzma
import zlib
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import NamedTuple

from data_prep.readers.decompressors import STEP_BYTES, XZ_MEMORY_BYTES
from data_prep.readers.restarts import Restart, XzRest

_HEADER_BYTES = _FOOTER_BYTES = 12
_HEADER_MAGIC, _FOOTER_MAGIC = b"\xfd7zXZ\0", b"YZ"
END_MARK = b"\0"
"""The last byte of the data of a block."""
MAX_TAIL_BYTES = 1 << 7
"""More than what follows the data of a block: padding and a check."""
_MAX_INDEX_BYTES = 1 << 30
_MAX_NUMBER_BYTES = 9
_CHECK_BYTES = (0, *(size for size in (4, 8, 16, 32, 64) for _ in range(3)))
"""Size of the check after each block, by its type."""


class _Block(NamedTuple):
    unpadded_bytes: int
    """Bytes of the file, with the check, but without the padding before that."""
    content_bytes: int

    @property
    def raw_bytes(self) -> int:
        return -(-self.unpadded_bytes // 4) * 4


class _Stream(NamedTuple):
    start: int
    header: bytes
    blocks: list[_Block]
    end: int


def xz_starts(read_at: Callable[[int, int], bytes], num_bytes: int) -> Iterator[Restart]:
    """The starts of the blocks of an xz file, except that of the file; none if the indexes do not
    describe the whole file.

    `read_at` gives a number of bytes from a byte of the file.
    """
    streams: list[_Stream] = []
    end = num_bytes
    while end > 0:
        padding = end
        while padding >= 4 and read_at(padding - 4, 4) == bytes(4):
            padding -= 4
        stream = _stream_before(read_at, padding)
        if stream is None:
            return
        streams.append(stream)
        end = stream.start
    offset = 0
    for stream in reversed(streams):
        if stream.start > 0:
            yield Restart(stream.start, offset)
        yield from _blocks_in(stream, offset)
        offset += sum(block.content_bytes for block in stream.blocks)


def _blocks_in(stream: _Stream, offset: int) -> Iterator[Restart]:
    """The starts of the blocks of a stream but the first; `offset` bytes of content precede it.

    A block after one without content is no restart: passing it could not be seen.
    """
    raw_ends = list(accumulate(block.raw_bytes for block in stream.blocks))
    content_ends = list(accumulate(block.content_bytes for block in stream.blocks))
    first_at = stream.start + _HEADER_BYTES
    check_bytes = _CHECK_BYTES[stream.header[7] & 0xF]
    mark_ats = [
        first_at + raw_end - block.raw_bytes + block.unpadded_bytes - check_bytes - 1
        for block, raw_end in zip(stream.blocks, raw_ends, strict=True)
    ]
    ends = list(zip(stream.blocks, raw_ends, content_ends, mark_ats, strict=True))
    for block, raw_end, content_end, mark_at in ends[:-1]:
        if block.content_bytes:
            rest = XzRest(
                header=stream.header,
                blocks_end=first_at + raw_ends[-1],
                stream_end=stream.end,
                content_before=content_end,
                content_after=content_ends[-1] - content_end,
                end_mark_at=mark_at,
                last_mark_at=mark_ats[-1],
            )
            yield Restart(first_at + raw_end, offset + content_end, rest)


def _stream_before(read_at: Callable[[int, int], bytes], end: int) -> _Stream | None:
    """The stream that ends at `end`; None if its footer or index is not whole."""
    footer = read_at(end - _FOOTER_BYTES, _FOOTER_BYTES) if end >= 2 * _HEADER_BYTES else b""
    if footer[10:] != _FOOTER_MAGIC or zlib.crc32(footer[4:10]) != _uint32(footer[:4]):
        return None
    index_bytes = 4 * (_uint32(footer[4:8]) + 1)
    index_at = end - _FOOTER_BYTES - index_bytes
    if index_bytes > _MAX_INDEX_BYTES or index_at < _HEADER_BYTES:
        return None
    index = read_at(index_at, index_bytes)
    if index[:1] != b"\0" or zlib.crc32(index[:-4]) != _uint32(index[-4:]):
        return None
    blocks = _blocks_of(index[1:-4])
    if blocks is None:
        return None
    start = index_at - sum(block.raw_bytes for block in blocks) - _HEADER_BYTES
    header = read_at(start, _HEADER_BYTES) if start >= 0 else b""
    if header[:6] != _HEADER_MAGIC or header[6:8] != footer[8:10]:
        return None
    if zlib.crc32(header[6:8]) != _uint32(header[8:]):
        return None
    return _Stream(start, header, blocks, end)


def _blocks_of(records: bytes) -> list[_Block] | None:
    """The blocks in the records of an index."""
    numbers = _numbers(records)
    try:
        return [_Block(next(numbers), next(numbers)) for _ in range(next(numbers))]
    except (RuntimeError, StopIteration, ValueError):
        return None


def _numbers(content: bytes) -> Iterator[int]:
    """The variable-length integers in `content`. Raises ValueError for what is none."""
    number = shift = 0
    for byte in content:
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            yield number
            number = shift = 0
        elif shift >= 7 * _MAX_NUMBER_BYTES:
            raise ValueError("an integer of more than nine bytes")


def _uint32(content: bytes) -> int:
    return int.from_bytes(content, "little")


class XzBlocks:
    """The rest of an xz stream, from the start of a block.

    The decoder of the whole stream is given its header, then the blocks. It would not accept the
    index, which also lists the blocks before: that was checked when the restart was found. Where
    the last block is damaged so that the decoder does not see its end, it is given what follows
    too, as if it had read the stream from its start.
    """

    def __init__(self, rest: XzRest, start: int) -> None:
        self._inner = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY_BYTES)
        self._rest = rest
        self._header = rest.header
        self._at, self._content_left = start, rest.content_after
        self._tail = b""
        """Last bytes of the blocks so far."""
        self._skips_index: bool | None = None
        self._unused: bytes | None = None

    @property
    def eof(self) -> bool:
        """See `Decompressor`."""
        return self._unused is not None or self._inner.eof

    @property
    def unused(self) -> bytes:
        """See `Decompressor`."""
        return self._inner.unused_data if self._unused is None else self._unused

    def pieces(self, raw: bytes) -> Iterator[bytes]:
        """See `Decompressor`."""
        rest, num_bytes = self._rest, max(0, self._rest.blocks_end - self._at)
        blocks, after = raw[:num_bytes], raw[num_bytes:]
        self._at += len(raw)
        if blocks:
            self._tail = (self._tail + blocks)[-MAX_TAIL_BYTES:]
            yield from self._decompressed(blocks)
        if not after:
            return
        if self._skips_index is None:
            end_mark = self._tail[rest.last_mark_at - rest.blocks_end :][:1]
            self._skips_index = not self._content_left and end_mark == END_MARK
        if self._inner.eof:
            self._unused = self._inner.unused_data + after
        elif not self._skips_index:
            yield from self._decompressed(after)
        elif self._at >= rest.stream_end:
            self._unused = raw[len(raw) - (self._at - rest.stream_end) :]

    def _decompressed(self, raw: bytes) -> Iterator[bytes]:
        if self._header:
            self._inner.decompress(self._header)
            self._header = b""
        more = True
        while more:
            piece = self._inner.decompress(raw, STEP_BYTES)
            raw = b""
            self._content_left -= len(piece)
            yield piece
            more = not self._inner.eof and not self._inner.needs_input
