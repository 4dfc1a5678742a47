"""Decompressors that work in bounded steps, whatever a few bytes expand to.

Seven kilobytes of bzip2 can hold gigabytes. So no decompressor here gives more than a few megabytes
at once, and who reads the pieces decides how many he wants.
"""

import bz2
import zlib
from collections.abc import Iterable, Iterator
from typing import Protocol

import zstandard

MAX_PIECE_BYTES = 1 << 22
"""Most bytes that `joined` puts together."""
_STEP_BYTES = 1 << 20
_ZSTANDARD_RAW_BYTES = 1 << 8
"""zstandard takes no limit on its output, but four bytes give at most one block of 128 KiB."""


class Decompressor(Protocol):
    """Decompresses a gzip member, a zstandard frame or a bzip2 stream."""

    @property
    def eof(self) -> bool:
        """Whether its end was reached."""

    @property
    def unused(self) -> bytes:
        """What followed its end in the last bytes given."""

    def pieces(self, raw: bytes) -> Iterator[bytes]:
        """What `raw`, the next bytes of the file, decompress to, in pieces of a few megabytes. To
        be exhausted before the next call."""


class GzipMember:
    """A gzip member."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(31)

    @property
    def eof(self) -> bool:
        """See `Decompressor`."""
        return self._inner.eof

    @property
    def unused(self) -> bytes:
        """See `Decompressor`."""
        return self._inner.unused_data

    def pieces(self, raw: bytes) -> Iterator[bytes]:
        """See `Decompressor`."""
        while True:
            content = self._inner.decompress(raw, _STEP_BYTES)
            yield content
            raw = self._inner.unconsumed_tail
            if self._inner.eof or (not raw and len(content) < _STEP_BYTES):
                return


class Bzip2Stream:
    """A bzip2 stream."""

    def __init__(self) -> None:
        self._inner = bz2.BZ2Decompressor()

    @property
    def eof(self) -> bool:
        """See `Decompressor`."""
        return self._inner.eof

    @property
    def unused(self) -> bytes:
        """See `Decompressor`."""
        return self._inner.unused_data

    def pieces(self, raw: bytes) -> Iterator[bytes]:
        """See `Decompressor`."""
        yield self._inner.decompress(raw, _STEP_BYTES)
        while not self._inner.eof and not self._inner.needs_input:
            yield self._inner.decompress(b"", _STEP_BYTES)


class ZstandardFrame:
    """A zstandard frame."""

    def __init__(self) -> None:
        self._inner = zstandard.ZstdDecompressor().decompressobj()
        self._rest = b""

    @property
    def eof(self) -> bool:
        """See `Decompressor`."""
        return self._inner.eof

    @property
    def unused(self) -> bytes:
        """See `Decompressor`."""
        return self._inner.unused_data + self._rest

    def pieces(self, raw: bytes) -> Iterator[bytes]:
        """See `Decompressor`."""
        for at in range(0, len(raw), _ZSTANDARD_RAW_BYTES):
            end = at + _ZSTANDARD_RAW_BYTES
            yield self._inner.decompress(raw[at:end])
            if self._inner.eof:
                self._rest = raw[end:]
                return


def joined(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The pieces together (at least one, maybe empty), or in several parts where they are large.

    What ordinary text decompresses to is one part, so that damage after it costs the same content
    however the decompressor works.
    """
    held: list[bytes] = []
    num_bytes = 0
    for piece in pieces:
        if held and num_bytes + len(piece) > MAX_PIECE_BYTES:
            yield b"".join(held)
            held, num_bytes = [], 0
        held.append(piece)
        num_bytes += len(piece)
    yield b"".join(held)
