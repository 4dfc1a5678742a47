"""What a file is, found by its first bytes: names say little, and are often wrong."""

import codecs
import re
import tarfile
from enum import StrEnum

TAR_BLOCK_BYTES = tarfile.BLOCKSIZE
HEAD_BYTES = 1 << 12
"""First bytes of a file that show what it is."""


class Archive(StrEnum):
    """A file that holds files."""

    ZIP = "zip"
    TAR = "tar"


class Compression(StrEnum):
    """The compression of a file: a sequence of members (frames, streams)."""

    GZIP = "gzip"
    ZSTANDARD = "zstandard"
    BZIP2 = "bzip2"
    XZ = "xz"
    LZMA = "lzma"
    LZ4 = "lz4"


MEMBER_STARTS: dict[Compression, re.Pattern[bytes]] = {
    Compression.GZIP: re.compile(rb"\x1f\x8b\x08[\x00-\x1f]"),
    Compression.BZIP2: re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)"),
    Compression.XZ: re.compile(rb"\xfd7zXZ\x00\x00[\x00-\x0f]"),
    # No magic number: common properties, a dictionary of at least 64 KiB, and a size.
    Compression.LZMA: re.compile(rb"\x5d\x00\x00.{2}(?:\xff{8}|.{5}\x00{3})", re.DOTALL),
    Compression.LZ4: re.compile(rb"\x04\x22\x4d\x18"),
    Compression.ZSTANDARD: re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),
}
"""First bytes of a member."""
RESUME_STARTS = MEMBER_STARTS | {
    Compression.GZIP: re.compile(
        rb"\x1f\x8b\x08[\x00-\x1f].{4}[\x00\x02\x04][\x00-\x0d\xff]", re.DOTALL
    ),
    Compression.ZSTANDARD: re.compile(rb"\x28\xb5\x2f\xfd"),
}
"""What shows a member in a damaged file, where short patterns occur by chance."""
MAX_START_BYTES = 13
"""Most bytes that these patterns look at."""
_BY_SUFFIX = {
    ".gz": (Compression.GZIP, b"\x1f\x8b\x08"),
    ".tgz": (Compression.GZIP, b"\x1f\x8b\x08"),
    ".bz2": (Compression.BZIP2, b"BZh"),
    ".xz": (Compression.XZ, b"\xfd7zXZ\x00\x00"),
    ".lzma": (Compression.LZMA, b"\x5d\x00\x00"),
    ".lz4": (Compression.LZ4, b"\x04\x22\x4d\x18"),
    ".zst": (Compression.ZSTANDARD, b"\x28\xb5\x2f\xfd"),
}
"""The compression that a suffix stands for, and how its files start."""
_SKIPPABLE_END = b"\x2a\x4d\x18"
_SKIPPABLE_FRAME = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18(.{4})", re.DOTALL)
WIDE_HEAD_BYTES = 8
_WIDE_STARTS = (
    (re.compile(rb"(?:[\t\n\r -~]\0\0\0){2}"), "utf-32-le"),
    (re.compile(rb"(?:\0\0\0[\t\n\r -~]){2}"), "utf-32-be"),
    (re.compile(rb"(?:[\t\n\r -~]\0){4}"), "utf-16-le"),
    (re.compile(rb"(?:\0[\t\n\r -~]){4}"), "utf-16-be"),
)
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}


def compression_by(head: bytes, name: str = "") -> Compression | None:
    """The compression of a file that starts with `head`; None if it is not compressed.

    The suffix of `name` counts only where `head` is no text, or shorter than the start of a member:
    a compressed file is damaged there, or cut.
    """
    # lz4 and zstandard share their skippable frames: the frame after those decides.
    at = 0
    while skipped := _SKIPPABLE_FRAME.match(head, at):
        at = skipped.end() + int.from_bytes(skipped[1], "little")
    if at and MEMBER_STARTS[Compression.LZ4].match(head, at):
        return Compression.LZ4
    for compression, start in MEMBER_STARTS.items():
        if start.match(head):
            return compression
    suffix = name[name.rfind(".") :].lower() if "." in name else ""
    if not head or suffix not in _BY_SUFFIX:
        return None
    compression, usual_start = _BY_SUFFIX[suffix]
    first = head[: len(usual_start)]
    return compression if usual_start.startswith(first) or not _is_text(head) else None


def may_start_member(head: bytes, compression: Compression) -> bool:
    """Whether a file that ends with `head` may be cut within the start of a member."""
    magic = next(start for kind, start in _BY_SUFFIX.values() if kind is compression)
    if magic.startswith(head[: len(magic)]):
        return True
    has_skippable = compression in (Compression.LZ4, Compression.ZSTANDARD)
    return has_skippable and 0x50 <= head[0] < 0x60 and _SKIPPABLE_END.startswith(head[1:4])


def archive_by(head: bytes, name: str = "") -> Archive | None:
    """The kind of the archive that starts with `head`, decompressed; None if it is none."""
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return Archive.ZIP
    block = head[:TAR_BLOCK_BYTES]
    if len(block) < TAR_BLOCK_BYTES:
        return None
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        return Archive.TAR
    except tarfile.HeaderError:
        is_named_so = re.search(r"\.(tar(\.\w+)?|tgz)$", name, re.IGNORECASE) is not None
        return Archive.TAR if is_named_so and not _is_text(head) else None


def encoding_by(head: bytes) -> str | None:
    """The encoding of a file that starts with the byte order mark of UTF-16 or UTF-32, or with a
    few characters of ASCII in one of these; None otherwise."""
    # UTF-32's mark starts with that of UTF-16: the longer ones are looked for first.
    for mark, encoding in _BYTE_ORDER_MARKS.items():
        if head.startswith(mark):
            return encoding
    wide = (encoding for start, encoding in _WIDE_STARTS if start.match(head))
    return next(wide, None)


def _is_text(head: bytes) -> bool:
    """Whether `head` may be the start of a text in UTF-8, or has a byte order mark."""
    if encoding_by(head):
        return True
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return b"\0" not in head
