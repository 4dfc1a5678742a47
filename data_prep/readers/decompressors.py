"""Decompressors that work in bounded steps, whatever a few bytes expand to.

Seven kilobytes of bzip2 can hold gigabytes. So no decompressor here gives more than a few megabytes
at once, and who reads the pieces decides how many he wants.
"""

import bz2
import lzma
import zlib
from collections.abc import Iterable, Iterator
from typing import Protocol

import zstandard

MAX_PIECE_BYTES = 1 << 22
"""Most bytes that `joined` puts together."""
_STEP_BYTES = 1 << 20
MAX_WINDOW_BYTES = 1 << 31
"""Largest window of a zstandard frame, that of ``zstd --long=31``. A window is held in memory as
far as it is filled; `zstd` makes windows above 8 MiB only when it is told to."""
_XZ_MEMORY_BYTES = MAX_WINDOW_BYTES
"""Most memory for the dictionary of an xz stream; ``xz -9`` needs 65 MiB."""
_MAX_DICTIONARY_BYTES = 1 << 27
_ZSTANDARD_MAGIC, _DICTIONARY_MAGIC = b"\x28\xb5\x2f\xfd", b"\x5d\x2a\x4d\x18"
_ZSTANDARD_RAW_BYTES = 1 << 8
"""zstandard takes no limit on its output, but four bytes give at most one block of 128 KiB."""


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
            content = self._inner.decompress(raw, _STEP_BYTES)
            yield content
            raw = self._inner.unconsumed_tail
            if self._inner.eof or (not raw and len(content) < _STEP_BYTES):
                return


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
        yield self._inner.decompress(raw, _STEP_BYTES)
        while not self._inner.eof and not self._inner.needs_input:
            yield self._inner.decompress(b"", _STEP_BYTES)


class XzStream:
    """An xz stream, or with `FORMAT_ALONE` a .lzma file."""

    def __init__(self, form: int = lzma.FORMAT_XZ) -> None:
        self._inner = lzma.LZMADecompressor(form, memlimit=_XZ_MEMORY_BYTES)

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


class Lz4Frame:
    """An lz4 frame; a skippable frame is an empty one."""

    def __init__(self) -> None:
        import lz4.frame

        self._skippable = SkippableFrame()
        self._inner = lz4.frame.LZ4FrameDecompressor()

    @property
    def eof(self) -> bool:
        """See `Decompressor`."""
        return self._skippable.eof or self._inner.eof

    @property
    def unused(self) -> bytes:
        """See `Decompressor`."""
        return self._skippable.unused if self._skippable.eof else self._inner.unused_data or b""

    def pieces(self, raw: bytes) -> Iterator[bytes]:
        """See `Decompressor`."""
        raw = self._skippable.skipped(raw)
        if not raw:
            return
        try:
            yield self._inner.decompress(raw, _STEP_BYTES)
            while not self._inner.eof and not self._inner.needs_input:
                yield self._inner.decompress(b"", _STEP_BYTES)
        except RuntimeError as error:  # all that the package raises for damage
            raise EOFError(str(error)) from error


class ZstandardFrame:
    """A zstandard frame; a skippable frame is an empty one.

    `dictionary` is what `ZstandardFrames` found at the start of the file.
    """

    def __init__(self, dictionary: zstandard.ZstdCompressionDict | None = None) -> None:
        self.skippable = SkippableFrame()
        self._inner = zstandard.ZstdDecompressor(
            dict_data=dictionary, max_window_size=MAX_WINDOW_BYTES
        ).decompressobj()
        self._rest = b""

    @property
    def eof(self) -> bool:
        """See `Decompressor`."""
        return self.skippable.eof or self._inner.eof

    @property
    def unused(self) -> bytes:
        """See `Decompressor`."""
        return self.skippable.unused if self.skippable.eof else self._inner.unused_data + self._rest

    def pieces(self, raw: bytes) -> Iterator[bytes]:
        """See `Decompressor`."""
        raw = self.skippable.skipped(raw)
        for at in range(0, len(raw), _ZSTANDARD_RAW_BYTES):
            end = at + _ZSTANDARD_RAW_BYTES
            yield self._inner.decompress(raw[at:end])
            if self._inner.eof:
                self._rest = raw[end:]
                return


class ZstandardFrames:
    """Makes the decompressors of the frames of one file.

    Where the first frame of a web archive is a skippable one with a dictionary, the others are
    compressed with that dictionary.
    """

    def __init__(self) -> None:
        self._first: SkippableFrame | None = None
        self._dictionary: zstandard.ZstdCompressionDict | None = None

    def __call__(self) -> ZstandardFrame:
        """The decompressor of the next frame."""
        first = self._first
        if first is not None and first.dictionary and self._dictionary is None:
            try:
                self._dictionary = _dictionary_of(bytes(first.dictionary))
            except zstandard.ZstdError:  # the frames that need it are the damage
                first.dictionary.clear()
        frame = ZstandardFrame(self._dictionary)
        if self._first is None:
            self._first = frame.skippable
            frame.skippable.keeps_dictionary = True
        return frame


def _dictionary_of(content: bytes) -> zstandard.ZstdCompressionDict:
    if content.startswith(_ZSTANDARD_MAGIC):
        pieces, content = ZstandardFrame().pieces(content), b""
        while len(content) <= _MAX_DICTIONARY_BYTES and (piece := next(pieces, None)) is not None:
            content += piece
    return zstandard.ZstdCompressionDict(content)


class SkippableFrame:
    """A skippable frame of zstandard or lz4, or nothing where another frame starts."""

    def __init__(self) -> None:
        self.eof = False
        """Whether the end of a skippable frame was reached."""
        self.unused = b""
        """What followed its end."""
        self.dictionary = bytearray()
        """Its content, if it holds a dictionary that is to be kept."""
        self.keeps_dictionary = False
        self._head = b""
        self._is_other = False
        self._left: int | None = None

    def skipped(self, raw: bytes) -> bytes:
        """`raw`, the next bytes of the file, without those of a skippable frame."""
        if self._is_other:
            return raw
        if self._left is None:
            raw = self._head + raw
            if len(raw) < 8 and (len(raw) < 4 or _is_skippable(raw)):
                self._head = raw
                return b""
            if not _is_skippable(raw):
                self._is_other = True
                return raw
            self.keeps_dictionary = self.keeps_dictionary and raw[:4] == _DICTIONARY_MAGIC
            self._left, raw = int.from_bytes(raw[4:8], "little"), raw[8:]
        content, self.unused = raw[: self._left], raw[self._left :]
        self._left -= len(content)
        if self.keeps_dictionary:
            if len(self.dictionary) + self._left > _MAX_DICTIONARY_BYTES:
                raise zstandard.ZstdError("the dictionary in the first frame is too large")
            self.dictionary += content
        self.eof = self._left == 0
        return b""


def _is_skippable(raw: bytes) -> bool:
    return raw[1:4] == b"\x2a\x4d\x18" and raw[0] & 0xF0 == 0x50


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
