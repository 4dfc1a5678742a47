"""Decompressors that work in bounded steps, whatever a few bytes expand to.

Seven kilobytes of bzip2 can hold gigabytes. So no decompressor here gives more than a few megabytes
at once, and who reads the pieces decides how many he wants.
"""

import bz2
import lzma
import zlib
from collections.abc import Iterable, Iterator
from typing import Protocol

MAX_PIECE_BYTES = 1 << 22
"""Most bytes that `joined` puts together."""
STEP_BYTES = 1 << 20
"""Most bytes that a decompressor gives at once, if it takes a limit."""
XZ_MEMORY_BYTES = 1 << 31
"""Most memory for the dictionary of an xz stream; ``xz -9`` needs 65 MiB."""


class Decompressor(Protocol):
    """Decompresses a member of a compressed file: a gzip member, a bzip2 or xz stream, a frame."""

    @property
    def eof(self) -> bool:
        """Whether its end was reached."""

    @property
    def unused(self) -> bytes:
        """What followed its end in the last bytes given."""

    def pieces(self, raw: bytes) -> Iterator[bytes]:
        """What `raw`, the next bytes of the file, decompress to, in pieces of a few megabytes. To
        be exhausted before the next call."""


class StoredContent:
    """What is not compressed; it has no end of its own."""

    eof = False
    unused = b""

    def pieces(self, raw: bytes) -> Iterator[bytes]:
        """See `Decompressor`."""
        yield raw


class GzipMember:
    """A gzip member."""

    _WINDOW_BITS = 31

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(self._WINDOW_BITS)

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
            content = self._inner.decompress(raw, STEP_BYTES)
            yield content
            raw = self._inner.unconsumed_tail
            if self._inner.eof or (not raw and len(content) < STEP_BYTES):
                return


class ZlibStream(GzipMember):
    """A deflate stream in a zlib container."""

    _WINDOW_BITS = 15


class DeflateStream(GzipMember):
    """A deflate stream, without the header of gzip."""

    _WINDOW_BITS = -15


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
        yield self._inner.decompress(raw, STEP_BYTES)
        while not self._inner.eof and not self._inner.needs_input:
            yield self._inner.decompress(b"", STEP_BYTES)


class XzStream:
    """An xz stream, or with `FORMAT_ALONE` a .lzma file."""

    def __init__(self, form: int = lzma.FORMAT_XZ) -> None:
        self._inner = lzma.LZMADecompressor(form, memlimit=XZ_MEMORY_BYTES)

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
        yield self._inner.decompress(raw, STEP_BYTES)
        while not self._inner.eof and not self._inner.needs_input:
            yield self._inner.decompress(b"", STEP_BYTES)


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
