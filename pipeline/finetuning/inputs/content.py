"""The content of a file, decompressed where its first bytes say that it is compressed."""

import bz2
import gzip
import lzma
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import IO, TextIO, cast

import zstandard

from configs.load import UserError

READ_ERRORS = (EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError)
"""What decompressing a damaged file raises, besides OSError."""
COMPRESSION_ENDINGS = (".gz", ".bz2", ".xz", ".lzma", ".zst", ".zstd")
_STARTS = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


@contextmanager
def content_of(path: Path) -> Iterator[IO[bytes]]:
    """The decompressed bytes of a file.

    Raises UserError if it cannot be opened, or turns out to be damaged while it is read.
    """
    try:
        with path.open("rb") as raw:
            start = raw.read(8)
            raw.seek(0)
            with _decompressed(raw, start) as content:
                yield content
    except READ_ERRORS as error:
        raise UserError(f"{path}: damaged or incomplete: {error}") from None
    except OSError as error:
        reason = os.strerror(error.errno).lower() if error.errno else f"damaged: {error}"
        raise UserError(f"{path}: {reason}") from None


def _decompressed(raw: IO[bytes], start: bytes) -> IO[bytes]:
    kind = next((kind for magic, kind in _STARTS.items() if start.startswith(magic)), None)
    match kind:
        case "gzip":
            return cast(IO[bytes], gzip.GzipFile(fileobj=raw))
        case "bzip2":
            return cast(IO[bytes], bz2.BZ2File(raw))
        case "xz":
            return cast(IO[bytes], lzma.LZMAFile(raw))
        case "zstd":
            reader = zstandard.ZstdDecompressor(max_window_size=1 << 31)
            return cast(IO[bytes], reader.stream_reader(raw, read_across_frames=True))
    return raw


@contextmanager
def text_of(path: Path, newline: str = "\n") -> Iterator[TextIO]:
    """The text of a file; bytes that are not UTF-8 become surrogates, which `check_text` finds.

    `newline` as of `open`: only "\\n" ends a line, or with "" any end of line, which is kept.
    """
    with content_of(path) as content:
        yield TextIOWrapper(
            content, encoding="utf-8-sig", errors="surrogateescape", newline=newline
        )


def not_utf8(text: str) -> str | None:
    """Where `text`, from `text_of`, is not UTF-8; None if all of it is."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"not UTF-8, from character {error.start} on"
    return None


def plain_name(path: Path) -> str:
    """The name of a file in lower case, without the ending of a compression."""
    name = path.name.lower()
    ending = next((ending for ending in COMPRESSION_ENDINGS if name.endswith(ending)), "")
    return name.removesuffix(ending)
