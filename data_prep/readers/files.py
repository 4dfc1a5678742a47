"""The files of a source: found, listed in a fixed order, opened, and watched for change.

Local paths and globs (``**`` too), and every URL that fsspec knows (``s3://``, ``gs://``, ``hf://``).
"""

import bz2
import fnmatch
import glob
import gzip
import io
import os
import stat
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, BinaryIO, cast

import zstandard

from configs.load import UserError

TRUNCATED = (EOFError, zlib.error, zstandard.ZstdError, gzip.BadGzipFile)
"""What a decompressor raises for damaged or truncated input; bz2 raises a bare OSError besides."""


@dataclass(frozen=True)
class SourceFile:
    """One file of a source, as it was when the plan was made."""

    path: str
    """Path or URL that opens it."""
    name: str
    """Its name below the folder that was searched: the same wherever the folder lies."""
    num_bytes: int
    modified: str
    """Time of last change or etag, whatever the file system tells."""


@dataclass(frozen=True)
class Span:
    """The piece of a file that one part reads: bytes, or row groups, as the reader defines it."""

    file: SourceFile
    start: int
    end: int


def list_files(patterns: Sequence[str], where: str) -> list[SourceFile]:
    """All files that match, sorted by name, each once; `where` is the config key, for errors."""
    found: dict[str, SourceFile] = {}
    for pattern in patterns:
        files = _list_url(pattern) if "://" in pattern else _list_local(pattern, where)
        if not files:
            raise UserError(
                f"{where}: {pattern!r} matches no file; check the path (relative to "
                f"{os.getcwd()}) and that the corpus has been fetched"
            )
        found.update((file.path, file) for file in files)
    return sorted(found.values(), key=lambda file: (file.name, file.path))


def _list_local(pattern: str, where: str) -> list[SourceFile]:
    root = pattern
    while glob.has_magic(root):
        root = os.path.dirname(root)
    if os.path.isdir(pattern):
        raise UserError(f"{where}: {pattern!r} is a folder; write a pattern such as {pattern}/*")
    base = os.path.dirname(pattern) if root == pattern else root
    files = []
    try:
        _check_folders(root, os.path.relpath(pattern, root or ".").split(os.sep))
        for path in glob.glob(pattern, recursive=True):
            status = os.stat(path)
            if stat.S_ISREG(status.st_mode):
                name = os.path.relpath(path, base or ".")
                files.append(SourceFile(path, name, status.st_size, str(status.st_mtime_ns)))
    except OSError as error:
        raise UserError(
            f"{where}: {error.filename or pattern} cannot be read: {error.strerror}; check that it "
            "is mounted, its owner and its permissions"
        ) from None
    return files


def _check_folders(root: str, names: Sequence[str]) -> None:
    """OSError when a folder that the pattern below `root` goes through cannot be read: glob itself
    passes over it."""
    if not os.path.isdir(root or "."):
        return
    root_depth = root.rstrip(os.sep).count(os.sep) + bool(root)
    for folder, inner, _ in os.walk(root or ".", onerror=_raise):
        depth = folder.rstrip(os.sep).count(os.sep) + bool(root) - root_depth
        if "**" not in names:
            inner[:] = fnmatch.filter(inner, names[depth]) if depth < len(names) - 1 else []


def _raise(error: OSError) -> None:
    raise error


def _list_url(pattern: str) -> list[SourceFile]:
    file_system, _ = _file_system_of(pattern)
    root = pattern
    while glob.has_magic(root):
        root = root.rpartition("/")[0]
    bare_root = file_system._strip_protocol(root if root != pattern else root.rpartition("/")[0])
    files = []
    for path, info in sorted(file_system.glob(pattern, detail=True).items()):
        if info["type"] == "file":
            url = file_system.unstrip_protocol(path)
            name = os.path.relpath(path, bare_root)
            files.append(SourceFile(url, name, info["size"], _version_of(info)))
    return files


def _file_system_of(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it."""
    import fsspec  # type: ignore[import-untyped]

    file_system, path = fsspec.core.url_to_fs(url)
    return file_system, path


def _version_of(info: dict[str, Any]) -> str:
    for key in ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "created"):
        if info.get(key) is not None:
            return str(info[key])
    return ""


@contextmanager
def open_file(file: SourceFile) -> Iterator[BinaryIO]:
    """The raw bytes of `file`; UserError when it is gone or has changed since it was listed."""
    _check_unchanged(file)
    if "://" in file.path:
        file_system, path = _file_system_of(file.path)
        with file_system.open(path, "rb") as stream:
            yield cast(BinaryIO, stream)
    else:
        with open(file.path, "rb") as stream:
            yield stream
    _check_unchanged(file)


def _check_unchanged(file: SourceFile) -> None:
    if "://" in file.path:
        file_system, path = _file_system_of(file.path)
        if not file_system.exists(path):
            raise UserError(_gone(file))
        info = file_system.info(path)
        now = (info["size"], _version_of(info))
    else:
        try:
            status = os.stat(file.path)
        except FileNotFoundError:
            raise UserError(_gone(file)) from None
        now = (status.st_size, str(status.st_mtime_ns))
    if now != (file.num_bytes, file.modified):
        raise UserError(
            f"{file.path}: changed since the plan was made (then {file.num_bytes:,} bytes, now "
            f"{now[0]:,}); put the old file back, or run again with '--restart-from ingest'"
        )


def _gone(file: SourceFile) -> str:
    return (
        f"{file.path}: disappeared since the plan was made; put it back, or run again with "
        "'--restart-from ingest'"
    )


def is_compressed(name: str) -> bool:
    """Whether the name says gzip, zstandard or bzip2: such a file is read from its beginning."""
    return name.endswith((".gz", ".zst", ".bz2"))


def decompressed(stream: BinaryIO, name: str) -> IO[bytes]:
    """`stream` as plain bytes, by the suffix of `name`."""
    if name.endswith(".gz"):
        return cast(IO[bytes], gzip.GzipFile(fileobj=stream))
    if name.endswith(".zst"):
        return cast(IO[bytes], io.BufferedReader(_ZstdFrames(stream), 1 << 17))
    if name.endswith(".bz2"):
        return cast(IO[bytes], bz2.BZ2File(stream))
    return stream


class _ZstdFrames(io.RawIOBase):
    """The content of one or more zstandard frames. Unlike the library's own reader it raises
    EOFError where the input ends inside a frame."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._frame: Any = None
        self._pending = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        compressed = b""
        while not self._pending:
            if self._frame is not None and self._frame.eof:
                compressed, self._frame = self._frame.unused_data, None
            compressed = compressed or self._stream.read(1 << 17)
            if not compressed:
                if self._frame is not None:
                    raise EOFError("the file ends inside a zstandard frame")
                return 0
            if self._frame is None:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            self._pending = memoryview(self._frame.decompress(compressed))
            compressed = b""
        num_bytes = min(len(buffer), len(self._pending))
        buffer[:num_bytes] = self._pending[:num_bytes]
        self._pending = self._pending[num_bytes:]
        return num_bytes


def is_damage(error: BaseException) -> bool:
    """Whether `error` is about a file's content, not about reading it from the disk."""
    return not isinstance(error, OSError) or error.errno is None


def byte_spans(file: SourceFile, part_bytes: int, align_bytes: int = 1) -> list[Span]:
    """`file` cut into spans of about `part_bytes`, at multiples of `align_bytes`."""
    step = max(part_bytes // align_bytes, 1) * align_bytes
    starts = range(0, max(file.num_bytes, 1), step)
    return [Span(file, start, min(start + step, file.num_bytes)) for start in starts]
