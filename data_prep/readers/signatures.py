"""Files that a reader cannot read, known by their first bytes: named before the work starts."""

import re
from typing import NamedTuple

from configs.load import UserError
from configs.terminal import visible_name


class Format(NamedTuple):
    """A kind of file, and what to do with it."""

    start: re.Pattern[bytes]
    name: str
    reader: str | None = None
    """`type` of the reader for it."""
    advice: str = ""
    only_for: tuple[str, ...] = ()
    """Types of readers that do not read it; by default all but `reader`."""


def _starts(*starts: bytes) -> re.Pattern[bytes]:
    return re.compile(b"|".join(map(re.escape, starts)))


_UNPACK = "unpack it, or pack its files as .zip or .tar (.gz, .zst, .xz)"
_RECOMPRESS = "decompress it, or compress it with gzip, zstd, xz, bzip2 or lz4"
_CONVERT = "convert it to Parquet or JSON lines"
_EXTRACT = "extract its text, for example to JSON lines"
_BINARY = ("parquet", "hf_dataset")
_FORMATS = (
    Format(
        re.compile(rb'(?:\xef\xbb\xbf)?\s*(?:\[\s*)?\{\s*"'),
        "JSON",
        "jsonl",
        only_for=(*_BINARY, "warc", "mediawiki"),
    ),
    Format(
        re.compile(rb"\x1f\x8b\x08|BZh[1-9]1AY&SY|\xfd7zXZ\0|\x28\xb5\x2f\xfd|\x04\x22\x4d\x18"),
        "a compressed file",
        advice="decompress it: such files are compressed inside",
        only_for=_BINARY,
    ),
    Format(
        re.compile(rb"PK\x03\x04|.{257}ustar", re.DOTALL),
        "an archive",
        advice="unpack it",
        only_for=_BINARY,
    ),
    Format(_starts(b"PAR1"), "a Parquet file", "parquet"),
    Format(_starts(b"ARROW1\0\0", b"\xff\xff\xff\xff", b"FEA1"), "an Arrow file", "hf_dataset"),
    Format(re.compile(rb"WARC/\d\.\d{1,2}\r?\n"), "a web archive (WARC)", "warc"),
    Format(re.compile(rb"filedesc://\S+ [\d.]+ \d+ "), "a web archive (ARC)", "warc"),
    Format(re.compile(rb"\s*(?:<\?xml[^>]*>\s*)?<mediawiki[\s>]"), "a wiki dump", "mediawiki"),
    Format(_starts(b"7z\xbc\xaf\x27\x1c"), "a 7z archive", advice=_UNPACK),
    Format(_starts(b"Rar!\x1a\x07"), "a rar archive", advice=_UNPACK),
    Format(_starts(b"MSCF\0\0\0\0"), "a cab archive", advice=_UNPACK),
    Format(_starts(b"!<arch>\n"), "an ar archive (.deb, .a)", advice=_UNPACK),
    Format(_starts(b"\xed\xab\xee\xdb"), "an rpm package", advice=_UNPACK),
    Format(re.compile(rb"07070[127][0-9A-Fa-f]{70}"), "a cpio archive", advice=_UNPACK),
    Format(re.compile(rb"..-lh[0-9d]-"), "an lha archive", advice=_UNPACK),
    Format(_starts(b"PK\x07\x08PK\x03\x04"), "a part of a split zip archive", advice=_UNPACK),
    Format(re.compile(rb"\x1f[\x9d\xa0]"), "a file compressed by `compress`", advice=_RECOMPRESS),
    Format(_starts(b"LZIP\x01"), "a file compressed by lzip", advice=_RECOMPRESS),
    Format(_starts(b"\x89LZO\0\r\n\x1a\n"), "a file compressed by lzop", advice=_RECOMPRESS),
    Format(_starts(b"\x02\x21\x4c\x18"), "a file in lz4's old format", advice=_RECOMPRESS),
    Format(_starts(b"\xff\x06\0\0sNaPpY"), "a file compressed by snappy", advice=_RECOMPRESS),
    Format(_starts(b"PARE"), "an encrypted Parquet file", advice="decrypt it"),
    Format(re.compile(rb"ORC[^\w\s]"), "an ORC file", advice=_CONVERT),
    Format(_starts(b"Obj\x01"), "an Avro file", advice=_CONVERT),
    Format(_starts(b"\x89HDF\r\n\x1a\n"), "an HDF5 file", advice=_CONVERT),
    Format(_starts(b"SQLite format 3\0"), "an SQLite database", advice=_CONVERT),
    Format(_starts(b"\x93NUMPY"), "a NumPy file", advice=_CONVERT),
    Format(re.compile(rb"\x80[\x02-\x05][\x80-\xff}\](cK]"), "a Python pickle", advice=_CONVERT),
    Format(_starts(b"%PDF-"), "a PDF document", advice=_EXTRACT),
    Format(_starts(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"), "an Office document", advice=_EXTRACT),
    Format(
        re.compile(
            rb"PK\x03\x04.{26}(?:mimetype|\[Content_Types\]\.xml|_rels/|docProps/|word/|xl/|ppt/)",
            re.DOTALL,
        ),
        "an Office or EPUB document",
        advice=_EXTRACT,
    ),
    Format(
        _starts(b"version https://git-lfs.github.com/spec/"),
        "a pointer of Git LFS in place of the file",
        advice="fetch the file itself (git lfs pull)",
    ),
)


def check_format(head: bytes, path: str, reader_type: str) -> None:
    """Raises UserError if a file that starts with `head` is of a kind that the reader of
    `reader_type` is known not to read."""
    found = format_of(head, reader_type)
    if found is None:
        return
    advice = found.advice
    if found.reader is not None:
        advice = f"read it with `type: {found.reader}`"
    raise UserError(
        f"{visible_name(path)}: is {found.name}, which the reader of type {reader_type!r} does not "
        f"read; {advice}, or leave it out of `files`"
    )


def format_of(head: bytes, reader_type: str) -> Format | None:
    """The kind of file that starts with `head`, if the reader of `reader_type` does not read it."""
    for known in _FORMATS:
        is_read = reader_type == known.reader or reader_type not in (known.only_for or reader_type)
        if not is_read and known.start.match(head):
            return known
    return None
