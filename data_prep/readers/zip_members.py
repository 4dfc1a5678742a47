"""The members of zip archives, found by the directory at the end of the archive.

The standard library reads the directory. The content is decompressed here, since its own way holds
whatever a few bytes of bzip2 or lzma expand to.
"""

import io
import lzma
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

from data_prep.readers.archive_members import DAMAGED_ARCHIVE, Member, is_metadata, printable
from data_prep.readers.compression import READ_ERRORS, Damage, is_damage
from data_prep.readers.decompressors import (
    Bzip2Stream,
    Decompressor,
    DeflateStream,
    StoredContent,
    XzStream,
)
from data_prep.readers.document import BadRecords
from data_prep.readers.frames import ZstandardFrame
from data_prep.readers.zip_scan import scanned_entries

_CHUNK_BYTES = 1 << 15
_MAX_DIRECTORY_BYTES = 1 << 28
"""That of some three million members."""
_MAX_END_BYTES, _MANY_ENTRIES = (1 << 16) + 22, (1 << 16) - 1
_ENCRYPTED = 1
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_STORED, _DEFLATED, _BZIP2, _LZMA, _ZSTANDARD, _XZ = 0, 8, 12, 14, 93, 95
_DECOMPRESSORS: dict[int, Callable[[], Decompressor]] = {
    _STORED: StoredContent,
    _DEFLATED: DeflateStream,
    _BZIP2: Bzip2Stream,
    _LZMA: lambda: XzStream(lzma.FORMAT_ALONE),
    _ZSTANDARD: ZstandardFrame,
    _XZ: XzStream,
}
"""By number of the method."""
_DIRECTORY_ERRORS = (
    zipfile.BadZipFile,
    NotImplementedError,
    struct.error,
    ValueError,  # UnicodeDecodeError too
    OverflowError,
)


class ZipMembers:
    """The members of a zip archive."""

    def __init__(self, stream: BinaryIO, path: str, bad: BadRecords) -> None:
        self._stream, self._path, self._bad = stream, path, bad
        self._num_bytes = stream.seek(0, io.SEEK_END)

    def members(self, start: int, end: int) -> Iterator[Member]:
        """The members that start in [start, end), in the order in which they lie in the file; the
        stream of one is read before the next is asked for. Without a whole directory, what the
        headers of the members show is read, and the span that starts at 0 counts it."""
        try:
            limited: Any = _DirectoryStream(self._stream)
            with zipfile.ZipFile(limited) as directory:
                found = sorted(directory.infolist(), key=lambda entry: entry.header_offset)
                self._check_places(found)
                entries = iter(found)
        except _DIRECTORY_ERRORS as error:
            if start == 0:
                self._bad.add_cut(self._path, 0, DAMAGED_ARCHIVE, str(error))
            entries = scanned_entries(self._stream, _DECOMPRESSORS)
        free_from = 0
        for entry in entries:
            at = entry.header_offset
            overlaps = at < free_from
            free_from = max(free_from, at + entry.compress_size)
            if at >= end:
                return
            if at >= start:
                yield self._member(entry, overlaps)

    def _check_places(self, entries: Sequence[zipfile.ZipInfo]) -> None:
        """Raises BadZipFile if members are not where the directory says, or not as many as its end
        says: bytes of the archive are missing."""
        self._stream.seek(max(0, self._num_bytes - _MAX_END_BYTES))
        tail = self._stream.read(_MAX_END_BYTES)
        at = tail.rfind(b"PK\x05\x06") + 10
        num_entries = int.from_bytes(tail[at : at + 2], "little")
        if num_entries not in (_MANY_ENTRIES, len(entries) & _MANY_ENTRIES):
            raise zipfile.BadZipFile(
                f"{len(entries):,} of {num_entries:,} members in its directory"
            )
        are_inside = all(0 <= entry.header_offset < self._num_bytes for entry in entries)
        ends = (entries[0], entries[-1]) if entries else ()
        if not are_inside or any(self._content_at(entry) is None for entry in ends):
            raise zipfile.BadZipFile("members are not where its directory says")

    def _member(self, entry: zipfile.ZipInfo, overlaps: bool) -> Member:
        name = printable(entry.filename)
        lost_bytes = max(0, min(entry.compress_size, self._num_bytes - entry.header_offset))
        lost = Member(name, entry.header_offset, lost_bytes, None)
        if entry.filename.endswith("/"):
            return lost._replace(skipped="folder in an archive")
        if (entry.external_attr >> 28) == 0xA and entry.create_system == 3:
            return lost._replace(skipped="link in an archive")
        if is_metadata(name):
            return lost._replace(skipped="macOS metadata in an archive")
        if entry.flag_bits & _ENCRYPTED:
            return lost._replace(problem="encrypted member of an archive")
        if entry.compress_type not in _DECOMPRESSORS:
            method = entry.compress_type
            return lost._replace(problem=f"zip member compressed by method {method}")
        content_at = self._content_at(entry)
        if overlaps or content_at is None:
            return lost._replace(problem=DAMAGED_ARCHIVE)
        entry.compress_size = lost_bytes
        content = _MemberContent(self._stream, content_at, entry)
        return Member(name, entry.header_offset, entry.file_size, content)

    def _content_at(self, entry: zipfile.ZipInfo) -> int | None:
        """Where the content of a member starts; None if its header is damaged."""
        self._stream.seek(entry.header_offset)
        header = self._stream.read(_LOCAL_HEADER.size)
        if len(header) < _LOCAL_HEADER.size:
            return None
        magic, *lengths = _LOCAL_HEADER.unpack(header)
        if magic != b"PK\x03\x04":
            return None
        return int(entry.header_offset + len(header) + sum(lengths))


class _DirectoryStream:
    """The file as zipfile reads it, which holds the whole directory, at ten times its size."""

    def __init__(self, stream: BinaryIO) -> None:
        self.seek, self.tell, self.seekable = stream.seek, stream.tell, stream.seekable
        self._stream = stream

    def read(self, num_bytes: int = -1) -> bytes:
        """See `BinaryIO`; ValueError for more than a directory may have."""
        if num_bytes > _MAX_DIRECTORY_BYTES:
            raise ValueError(f"a directory of {num_bytes:,} bytes: unpack the archive")
        return self._stream.read(num_bytes)


class _MemberContent(io.RawIOBase):
    """The content of a member; its checksum and size are checked before its last bytes are given.
    Reading raises `Damage`."""

    def __init__(self, stream: BinaryIO, at: int, entry: zipfile.ZipInfo) -> None:
        self._stream, self._at, self._left = stream, at, entry.compress_size
        self._decompressor = _DECOMPRESSORS[entry.compress_type]()
        self._is_lzma = entry.compress_type == _LZMA
        self._entry = entry
        self._checksum = self._num_bytes = 0
        self._pieces: Iterator[bytes] = iter(())
        self._pending = memoryview(b"")
        self._damage: Damage | None = None
        self._chunk_left = entry.compress_size
        """Bytes that are not read if there is damage now."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._pending:
            if self._damage is not None:
                raise self._damage
            try:
                piece = self._next_piece()
            except READ_ERRORS as error:
                if not is_damage(error):
                    raise
                self._damage = Damage(str(error), self._chunk_left, reason=DAMAGED_ARCHIVE)
                continue
            if piece is None:
                return 0
            self._pending = memoryview(piece)
        num_bytes = min(len(buffer), len(self._pending))
        buffer[:num_bytes] = self._pending[:num_bytes]
        self._pending = self._pending[num_bytes:]
        return num_bytes

    def _next_piece(self) -> bytes | None:
        piece = next(self._pieces, None)
        while piece is None:
            if self._decompressor.eof or not self._left:
                self._check_end()
                return None
            self._pieces = self._decompressor.pieces(self._next_raw())
            piece = next(self._pieces, None)
        self._checksum = zlib.crc32(piece, self._checksum)
        self._num_bytes += len(piece)
        if self._num_bytes >= self._entry.file_size:
            self._check_end()
        return piece

    def _check_end(self) -> None:
        entry = self._entry
        if self._num_bytes != entry.file_size or self._checksum != entry.CRC:
            raise EOFError("checksum or size of the member is wrong")

    def _next_raw(self) -> bytes:
        self._chunk_left = self._left
        self._stream.seek(self._at)
        raw = self._stream.read(min(_CHUNK_BYTES, self._left))
        if not raw:
            self._chunk_left = 0
            raise EOFError("the archive ends inside a member")
        self._at += len(raw)
        self._left -= len(raw)
        return self._as_lzma_file(raw) if self._is_lzma else raw

    def _as_lzma_file(self, raw: bytes) -> bytes:
        """The first bytes of an lzma member as those of a .lzma file: two bytes of a version and
        two of the length of the properties precede these, and the size is missing."""
        self._is_lzma = False
        properties, data = raw[4:9], raw[9:]
        has_end_mark = self._entry.flag_bits & 2
        size = (1 << 64) - 1 if has_end_mark else self._entry.file_size
        return properties + size.to_bytes(8, "little") + data
