"""Compressed files of several parts that can be decompressed independently."""

import gzip
import lzma
import struct
import zlib
from collections.abc import Callable, Sequence

import lz4.frame
import zstandard

SKIPPABLE_FRAME = b"\x50\x2a\x4d\x18" + struct.pack("<I", 3) + b"abc"


def zstandard_frames(parts: Sequence[bytes]) -> bytes:
    """A frame for each part, with its size, and a skippable frame before each second one."""
    compressor = zstandard.ZstdCompressor(write_checksum=True)
    return b"".join(
        SKIPPABLE_FRAME * (number % 2) + compressor.compress(part)
        for number, part in enumerate(parts)
    )


def zstandard_frames_without_sizes(parts: Sequence[bytes]) -> bytes:
    """Frames as pzstd writes them."""
    compressor = zstandard.ZstdCompressor(write_checksum=True, write_content_size=False)
    return b"".join(map(compressor.compress, parts))


def seekable_zstandard(parts: Sequence[bytes]) -> bytes:
    """Frames without sizes, and a seek table."""
    frames = [zstandard_frames_without_sizes([part]) for part in parts]
    entries = b"".join(
        struct.pack("<II", len(frame), len(part)) for frame, part in zip(frames, parts, strict=True)
    )
    end = struct.pack("<IBI", len(parts), 0, 0x8F92EAB1)
    table = struct.pack("<II", 0x184D2A5E, len(entries) + len(end)) + entries + end
    return b"".join(frames) + table


def lz4_frames(parts: Sequence[bytes]) -> bytes:
    """A frame for each part, with its size."""
    return b"".join(lz4.frame.compress(part, content_checksum=True) for part in parts)


def gzip_members(parts: Sequence[bytes]) -> bytes:
    """A member for each part."""
    return b"".join(gzip.compress(part, mtime=0) for part in parts)


def stored_gzip_members(parts: Sequence[bytes]) -> bytes:
    """Members that hold the parts as they are."""
    return b"".join(gzip.compress(part, 0, mtime=0) for part in parts)


def padded_gzip_members(parts: Sequence[bytes]) -> bytes:
    """Members with zeros between them."""
    return bytes(7).join(gzip.compress(part, mtime=0) for part in parts)


def bgzf(parts: Sequence[bytes]) -> bytes:
    """Blocks as bgzip writes them, of at most 64 KB, the last one empty."""
    blocks = []
    for part in (*parts, b""):
        packer = zlib.compressobj(wbits=-15)
        content = packer.compress(part) + packer.flush()
        head = b"\x1f\x8b\x08\x04" + bytes(5) + b"\xff\x06\0BC\x02\0"
        size = struct.pack("<H", len(head) + 2 + len(content) + 8 - 1)
        blocks.append(head + size + content + struct.pack("<II", zlib.crc32(part), len(part)))
    return b"".join(blocks)


def xz_streams(parts: Sequence[bytes]) -> bytes:
    """A stream for each part, with padding between them."""
    return bytes(4).join(lzma.compress(part) for part in parts)


def xz_blocks(parts: Sequence[bytes]) -> bytes:
    """A stream with a block for each part, as ``xz -T`` writes it."""
    blocks, records, header = [], [], lzma.compress(b"")[:12]
    for part in filter(None, parts):
        stream = lzma.compress(part)
        index_bytes = 4 * (int.from_bytes(stream[-8:-4], "little") + 1)
        index = stream[-12 - index_bytes : -12]
        blocks.append(stream[12 : -12 - index_bytes])
        unpadded_bytes = len(index.rstrip(b"\0")) and _first_number(index[2:])
        records.append(_number(unpadded_bytes) + _number(len(part)))
    body = b"\0" + _number(len(records)) + b"".join(records)
    body += bytes(-len(body) % 4)
    index = body + struct.pack("<I", zlib.crc32(body))
    end = struct.pack("<I", len(index) // 4 - 1) + header[6:8]
    footer = struct.pack("<I", zlib.crc32(end)) + end + b"YZ"
    return header + b"".join(blocks) + index + footer


def several_xz_streams_of_blocks(parts: Sequence[bytes]) -> bytes:
    """Two streams of blocks."""
    half = len(parts) // 2
    return xz_blocks(parts[:half]) + xz_blocks(parts[half:])


def _number(value: int) -> bytes:
    groups = [value >> shift & 0x7F for shift in range(0, max(value.bit_length(), 1), 7)]
    return bytes(group | 0x80 for group in groups[:-1]) + bytes(groups[-1:])


def _first_number(content: bytes) -> int:
    value = 0
    for place, byte in enumerate(content):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            break
    return value


WRITERS: dict[str, tuple[str, Callable[[Sequence[bytes]], bytes]]] = {
    "zstandard frames": ("zst", zstandard_frames),
    "zstandard with a seek table": ("zst", seekable_zstandard),
    "gzip members": ("gz", gzip_members),
    "stored gzip members": ("gz", stored_gzip_members),
    "bgzf": ("gz", bgzf),
    "xz streams": ("xz", xz_streams),
    "xz blocks": ("xz", xz_blocks),
    "xz streams of blocks": ("xz", several_xz_streams_of_blocks),
    "lz4 frames": ("lz4", lz4_frames),
}
"""Suffix, and what writes the parts, of files whose parts are found."""
OTHER_WRITERS: dict[str, tuple[str, Callable[[Sequence[bytes]], bytes]]] = {
    "zstandard frames without sizes": ("zst", zstandard_frames_without_sizes),
    "padded gzip members": ("gz", padded_gzip_members),
}
"""Those of files that do not say how much content precedes a part."""
