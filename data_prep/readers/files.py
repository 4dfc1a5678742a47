"""The files of a source: found, listed in a fixed order, opened, and checked for changes.

Local paths and globs (``**`` too), and every URL that fsspec knows (``s3://``, ``gs://``, ``hf://``).
"""

import fnmatch
import glob
import io
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

from configs.load import UserError
from configs.terminal import visible_name

_FILE_BUFFER_BYTES, _URL_BUFFER_BYTES = 1 << 17, 1 << 20


@dataclass(frozen=True)
class SourceFile:
    """One file of a source, as it was when the plan was made."""

    path: str
    """Path or URL that opens it."""
    name: str
    """Its path relative to the searched folder: it does not depend on where that folder is."""
    num_bytes: int
    modified: str
    """Time of the last change, or the etag, whichever the file system reports."""


@dataclass(frozen=True)
class Span:
    """The range of a file that one part reads: bytes or row groups, as its reader defines."""

    file: SourceFile
    start: int
    end: int
    group_bytes: int | None = None
    """Size in bytes, if `start` and `end` do not count bytes."""
    archive: str | None = None
    """The kind of archive, if the file is one and its members are read."""

    @property
    def num_bytes(self) -> int:
        """Approximate size of what is read."""
        return self.end - self.start if self.group_bytes is None else self.group_bytes


def list_files(patterns: Sequence[str], where: str) -> list[SourceFile]:
    """All files that match, sorted by name, each once.

    Raises UserError, which names the config key `where`, if a pattern matches no file or a folder
    cannot be read.
    """
    found: dict[str, SourceFile] = {}
    for pattern in patterns:
        is_url = "://" in pattern
        files = _list_url(pattern, where) if is_url else _list_local(pattern, where)
        if not files:
            raise UserError(
                f"{where}: {pattern!r} matches no file; check the path (relative to "
                f"{os.getcwd()}) and that the corpus has been fetched"
            )
        found.update((file.path, file) for file in files)
    return sorted(found.values(), key=lambda file: (file.name, file.path))


def _list_local(pattern: str, where: str) -> list[SourceFile]:
    root, inner = _split(pattern)
    if os.path.isdir(pattern):
        raise UserError(f"{where}: {pattern!r} is a folder; write a pattern such as {pattern}/*")
    base = root if inner else os.path.dirname(pattern)
    files = []
    try:
        _check_folders(root, inner)
        for path in glob.glob(os.path.join(glob.escape(root), *inner), recursive=True):
            status = os.stat(path)
            if stat.S_ISREG(status.st_mode):
                name = os.path.relpath(path, base or ".")
                files.append(SourceFile(path, name, status.st_size, str(status.st_mtime_ns)))
    except OSError as error:
        raise UserError(
            f"{where}: {visible_name(error.filename or pattern)} cannot be read: "
            f"{error.strerror}; check that it is mounted, its owner and its permissions"
        ) from None
    return files


def _split(pattern: str) -> tuple[str, list[str]]:
    """(the longest start of `pattern` that holds no wildcard, the rest as names).

    A folder or file whose name happens to hold brackets, ``*`` or ``?`` is no wildcard.
    """
    names = pattern.split(os.sep)
    for number, name in enumerate(names):
        root = os.sep.join(names[: number + 1])
        if glob.has_magic(name) and not os.path.lexists(root):
            return os.sep.join(names[:number]) or os.sep * (number > 0), names[number:]
    return pattern, []


def _check_folders(root: str, names: Sequence[str]) -> None:
    """Raises OSError if a folder that the pattern below `root` searches cannot be read: glob itself
    skips it silently."""
    if not os.path.isdir(root or "."):
        return
    root_depth = root.rstrip(os.sep).count(os.sep) + bool(root)
    for folder, inner, _ in os.walk(root or ".", onerror=_raise):
        depth = folder.rstrip(os.sep).count(os.sep) + bool(root) - root_depth
        if "**" not in names:
            inner[:] = fnmatch.filter(inner, names[depth]) if depth < len(names) - 1 else []


def _raise(error: OSError) -> None:
    raise error


def _list_url(pattern: str, where: str) -> list[SourceFile]:
    root = pattern
    while glob.has_magic(root):
        root = root.rpartition("/")[0]
    root = root if root != pattern else root.rpartition("/")[0]
    try:
        file_system, _ = _file_system_of(pattern)
        found = sorted(file_system.glob(pattern, detail=True).items())
        bare_root = file_system._strip_protocol(root)
    except Exception as error:  # every protocol has its own library with its own errors
        raise UserError(
            f"{where}: {pattern!r} cannot be listed: {type(error).__name__}: {error}; check the "
            "address, that the library for it is installed (s3fs for s3://, gcsfs for gs://), and "
            "the credentials in the environment"
        ) from error
    return [
        SourceFile(
            file_system.unstrip_protocol(path),
            os.path.relpath(path, bare_root),
            info["size"],
            _version_of(info),
        )
        for path, info in found
        if info["type"] == "file"
    ]


def _file_system_of(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it."""
    import fsspec  # type: ignore[import-untyped]

    file_system, path = fsspec.core.url_to_fs(url)
    return file_system, path


def _version_of(info: dict[str, Any]) -> str:
    hashes, times = ("ETag", "etag", "md5Hash", "blob_id"), ("LastModified", "last_modified")
    for key in (*hashes, "mtime", *times, "created"):
        if info.get(key) is not None:
            return str(info[key])
    return ""


@contextmanager
def open_file(file: SourceFile) -> Iterator[BinaryIO]:
    """The raw bytes of `file`; raises UserError if it has disappeared or changed since listed."""
    _check_unchanged(file)
    if "://" in file.path:
        file_system, path = _file_system_of(file.path)
        # fsspec's own file objects read a block again for every line.
        with io.BufferedReader(file_system.open(path, "rb"), _URL_BUFFER_BYTES) as stream:
            yield stream
    else:
        with open(file.path, "rb", buffering=_FILE_BUFFER_BYTES) as stream:
            yield stream
    _check_unchanged(file)


def head_of(file: SourceFile, num_bytes: int) -> bytes:
    """The first `num_bytes` of `file`; raises UserError if it has disappeared or changed."""
    if "://" in file.path:
        file_system, path = _file_system_of(file.path)
        try:
            return bytes(file_system.cat_file(path, start=0, end=min(num_bytes, file.num_bytes)))
        except FileNotFoundError:
            raise UserError(_gone(file)) from None
    with open_file(file) as stream:
        return stream.read(num_bytes)


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
            f"{visible_name(file.path)}: changed since the plan was made (then {file.num_bytes:,} "
            f"bytes, now {now[0]:,}); restore the old file, or run again with "
            "'--restart-from ingest'"
        )


def _gone(file: SourceFile) -> str:
    return (
        f"{visible_name(file.path)}: disappeared since the plan was made; restore it, or run again "
        "with '--restart-from ingest'"
    )


def byte_spans(file: SourceFile, part_bytes: int, align_bytes: int = 1) -> list[Span]:
    """Spans of about `part_bytes` that cover `file`, cut at multiples of `align_bytes`."""
    step = max(part_bytes // align_bytes, 1) * align_bytes
    starts = range(0, max(file.num_bytes, 1), step)
    return [Span(file, start, min(start + step, file.num_bytes)) for start in starts]
