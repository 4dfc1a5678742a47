"""The members of a zip archive without its directory: cut short, or damaged at its end.

They are found by the headers before them, from the start of the archive. A header may lack the
sizes, if the archive was written as a stream; then the content is decompressed to find its end.
"""

import io
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import BinaryIO
from zipfile import ZipInfo

from data_prep.readers.compression import READ_ERRORS, is_damage
from data_prep.readers.decompressors import Decompressor

_HEADER = struct.Struct("<4s2xHH4xIIIHH")
_MAGIC, _DIRECTORY_MAGIC = b"PK\x03\x04", b"PK\x01\x02"
_SIZES_FOLLOW = 8
_ZIP64_FIELD = 1
_MAX_DESCRIPTOR_BYTES = 24
"""Of the sizes that follow a member."""
_CHUNK_BYTES = 1 << 15


def scanned_entries(
    stream: BinaryIO, decompressors: Mapping[int, Callable[[], Decompressor]]
) -> Iterator[ZipInfo]:
    """The members, in the order of the file; the last one may be cut."""
    at: int | None = 0
    while at is not None:
        stream.seek(at)
        entry, content_at = _entry(stream, at)
        if entry is None:
            return
        if entry.flag_bits & _SIZES_FOLLOW and not entry.compress_size:
            if entry.compress_type not in decompressors:
                entry.compress_size = max(0, (_next_header(stream, content_at) or 0) - content_at)
            else:
                _measure(stream, content_at, entry, decompressors[entry.compress_type]())
        at = _following(stream, content_at, entry)
        yield entry


def _entry(stream: BinaryIO, at: int) -> tuple[ZipInfo | None, int]:
    """(the member whose header is at `at`, None if there is none; byte at which its content is)."""
    header = stream.read(_HEADER.size)
    if len(header) < _HEADER.size or not header.startswith(_MAGIC):
        return None, at
    _, flags, method, checksum, stored_bytes, num_bytes, name_bytes, extra_bytes = _HEADER.unpack(
        header
    )
    name, extra = stream.read(name_bytes), stream.read(extra_bytes)
    entry = ZipInfo(name.decode("utf-8", "backslashreplace") or "?")
    entry.header_offset, entry.flag_bits, entry.compress_type = at, flags, method
    entry.CRC, entry.compress_size, entry.file_size = checksum, stored_bytes, num_bytes
    if len(extra) >= 20 and struct.unpack_from("<H", extra)[0] == _ZIP64_FIELD:
        entry.file_size, entry.compress_size = struct.unpack_from("<QQ", extra, 4)
    return entry, at + len(header) + name_bytes + extra_bytes


def _measure(stream: BinaryIO, at: int, entry: ZipInfo, decompressor: Decompressor) -> None:
    """Sets the sizes and the checksum of a member whose content is at `at`."""
    stream.seek(at)
    num_raw = 0
    try:
        while not decompressor.eof and (raw := stream.read(_CHUNK_BYTES)):
            num_raw += len(raw)
            for piece in decompressor.pieces(raw):
                entry.file_size += len(piece)
                entry.CRC = zlib.crc32(piece, entry.CRC)
    except READ_ERRORS as error:
        if not is_damage(error):
            raise
    entry.compress_size = num_raw - len(decompressor.unused if decompressor.eof else b"")


def _following(stream: BinaryIO, content_at: int, entry: ZipInfo) -> int | None:
    """The header after a member, whose size is lowered if the archive lacks bytes of it."""
    end = min(content_at + entry.compress_size, stream.seek(0, io.SEEK_END))
    stream.seek(end)
    window = stream.read(_MAX_DESCRIPTOR_BYTES + len(_MAGIC))
    if _MAGIC in window or _DIRECTORY_MAGIC in window:
        return _next_header(stream, end)
    at = _next_header(stream, content_at)
    if at is not None:
        entry.compress_size = min(entry.compress_size, at - content_at)
    return at


def _next_header(stream: BinaryIO, at: int) -> int | None:
    """The next header from `at`; None if the directory or the end of the file comes first."""
    size = stream.seek(0, io.SEEK_END)
    while at < size:
        stream.seek(at)
        window = stream.read(_CHUNK_BYTES + len(_MAGIC))
        found, directory = window.find(_MAGIC), window.find(_DIRECTORY_MAGIC)
        if directory >= 0 and (found < 0 or directory < found):
            return None
        if found >= 0:
            return at + found
        at += _CHUNK_BYTES
    return None
