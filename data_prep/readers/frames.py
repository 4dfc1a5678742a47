"""The frames of zstandard and lz4, which may be skippable ones, decompressed in bounded steps."""

from collections.abc import Iterator

import zstandard

from data_prep.readers.decompressors import STEP_BYTES

MAX_WINDOW_BYTES = 1 << 31
"""Largest window of a zstandard frame, that of ``zstd --long=31``. A window is held in memory as
far as it is filled; `zstd` makes windows above 8 MiB only on request."""
_MAX_DICTIONARY_BYTES = 1 << 27
ZSTANDARD_MAGIC, LZ4_MAGIC = b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18"
"""First bytes of a frame."""
DICTIONARY_MAGIC = b"\x5d\x2a\x4d\x18"
"""First bytes of a skippable frame with the dictionary of a web archive."""
_ZSTANDARD_RAW_BYTES = 1 << 8
"""zstandard takes no limit on its output, but four bytes give at most one block of 128 KiB."""


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
            yield self._inner.decompress(raw, STEP_BYTES)
            while not self._inner.eof and not self._inner.needs_input:
                yield self._inner.decompress(b"", STEP_BYTES)
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

    def __init__(self, is_file_start: bool = True) -> None:
        """`is_file_start` says whether the first of these frames is that of the file."""
        self._is_file_start = is_file_start
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
            frame.skippable.keeps_dictionary = self._is_file_start
        return frame


def needs_dictionary(head: bytes) -> bool:
    """Whether a file that starts with `head` is a zstandard frame for a dictionary that the file
    itself does not hold."""
    if not head.startswith(ZSTANDARD_MAGIC):  # a skippable frame may hold the dictionary
        return False
    try:
        return bool(zstandard.get_frame_parameters(head).dict_id)
    except zstandard.ZstdError:
        return False


def _dictionary_of(content: bytes) -> zstandard.ZstdCompressionDict:
    if content.startswith(ZSTANDARD_MAGIC):
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
            if len(raw) < 8 and (len(raw) < 4 or is_skippable(raw)):
                self._head = raw
                return b""
            if not is_skippable(raw):
                self._is_other = True
                return raw
            self.keeps_dictionary = self.keeps_dictionary and raw[:4] == DICTIONARY_MAGIC
            self._left, raw = int.from_bytes(raw[4:8], "little"), raw[8:]
        content, self.unused = raw[: self._left], raw[self._left :]
        self._left -= len(content)
        if self.keeps_dictionary:
            if len(self.dictionary) + self._left > _MAX_DICTIONARY_BYTES:
                raise zstandard.ZstdError("the dictionary in the first frame is too large")
            self.dictionary += content
        self.eof = self._left == 0
        return b""


def is_skippable(raw: bytes) -> bool:
    """Whether a frame that starts with `raw` is a skippable one."""
    return raw[1:4] == b"\x2a\x4d\x18" and raw[0] & 0xF0 == 0x50
