"""The starts of the members of gzip files: of BGZF by its headers, of others by their magic number.

A member is a header, a deflate stream, a checksum, and the size of its content modulo 2^32. In BGZF
(``bgzip``), the header also holds the size of the member.
"""

import re
import zlib
from collections.abc import Callable, Iterator

from data_prep.readers.decompressors import GzipMember
from data_prep.readers.kinds import RESUME_STARTS, Compression
from data_prep.readers.restarts import Restart

_BGZF = re.compile(rb"\x1f\x8b\x08\x04.{6}\x06\x00BC\x02\x00(..)", re.DOTALL)
_BGZF_HEAD_BYTES, _SIZE_BYTES = 18, 4
_WINDOW_BYTES = 1 << 20
_PROBE_BYTES = 512
"""Compressed bytes that must be readable where the magic number is. By chance, that of a member
occurs every 200 GB, and what follows is hardly ever readable."""
_MAX_MEMBER_BYTES = 1 << 29
"""A longer member may hold more than 4 GiB of content, and then does not say how much."""


def gzip_starts(
    read_at: Callable[[int, int], bytes], num_bytes: int, longest: int
) -> Iterator[Restart]:
    """The starts of the members, as they seem, up to the first that takes more than `longest`
    bytes."""
    if _BGZF.match(read_at(0, _BGZF_HEAD_BYTES)):
        yield from _bgzf_starts(read_at, num_bytes)
    else:
        yield from _member_starts(read_at, num_bytes, min(longest, _MAX_MEMBER_BYTES))


def _bgzf_starts(read_at: Callable[[int, int], bytes], num_bytes: int) -> Iterator[Restart]:
    at = offset = 0
    block = _BGZF.match(read_at(0, _BGZF_HEAD_BYTES))
    while block:
        at += int.from_bytes(block[1], "little") + 1
        if at >= num_bytes:
            return
        around = read_at(at - _SIZE_BYTES, _SIZE_BYTES + _BGZF_HEAD_BYTES)
        offset += int.from_bytes(around[:_SIZE_BYTES], "little")
        block = _BGZF.match(around, _SIZE_BYTES)
        if block:
            yield Restart(at, offset)


def _member_starts(
    read_at: Callable[[int, int], bytes], num_bytes: int, longest: int
) -> Iterator[Restart]:
    last = offset = 0
    for window_at in range(0, num_bytes, _WINDOW_BYTES):
        if window_at - last > longest:
            return
        first = max(window_at - _SIZE_BYTES, 0)
        window = read_at(first, window_at - first + _WINDOW_BYTES + _PROBE_BYTES)
        for found in RESUME_STARTS[Compression.GZIP].finditer(window, window_at - first):
            place = found.start()
            at = first + place
            if at >= window_at + _WINDOW_BYTES:
                break
            if at == 0 or not _is_readable(window[place : place + _PROBE_BYTES]):
                continue
            size = int.from_bytes(window[place - _SIZE_BYTES : place], "little")
            if not size:  # padding, or a member without content: not to be told apart
                return
            last, offset = at, offset + size
            yield Restart(at, offset)


def _is_readable(start: bytes) -> bool:
    try:
        for _ in GzipMember().pieces(start):
            pass
    except zlib.error:
        return False
    return True
