"""The files of a source: found, listed in a fixed order, opened, and checked for changes.

Local paths and globs (``**`` too), and every URL that fsspec knows (``s3://``, ``gs://``, ``hf://``).
"""

import glob
import io
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO

from configs.load import UserError
from configs.terminal import visible_name
from data_prep.dataset.url_files import (
    UrlError,
    UrlFile,
    UrlMissingError,
    file_system_of,
    retried,
)
from data_prep.readers.local_files import RealPaths, local_files
from data_prep.readers.restarts import Sharing
from data_prep.readers.url_stream import UrlStream

logger = logging.getLogger(__name__)

_FILE_BUFFER_BYTES, _URL_BUFFER_BYTES = 1 << 17, 1 << 20
_OPENING_BYTES, _URL_OPENING_BYTES = 1 << 15, 1 << 19
_WINDOW_BYTES, _NEAR_BYTES = 1 << 20, 1 << 15
"""What is read at once where the next place is likely within it, and how near that is."""


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
    sharing: Sharing | None = field(default=None, compare=False)
    """Of a compressed file of lines: how this span is read without all that precedes it. What is
    read does not depend on it, and it is not part of a plan."""

    @property
    def num_bytes(self) -> int:
        """Approximate size of what is read."""
        return self.end - self.start if self.group_bytes is None else self.group_bytes


def list_files(patterns: Sequence[str], where: str) -> list[SourceFile]:
    """All files that match, sorted by name, each once, also where two patterns or links lead to it.

    Raises UserError, which names the config key `where`, if a pattern matches no file or what it
    matches cannot be read.
    """
    found: dict[str, SourceFile] = {}
    real_paths, num_repeated = RealPaths(), 0
    for pattern in patterns:
        is_url = "://" in pattern
        files = _list_url(pattern, where) if is_url else _list_local(pattern, where)
        if not files:
            raise UserError(
                f"{where}: {visible_name(pattern)!r} matches no file; check the path (relative to "
                f"{visible_name(os.getcwd())}) and that the corpus has been fetched"
            )
        for file in files:
            key = identity(file, real_paths)
            num_repeated += key in found
            if key not in found or file.path == key:  # the spelling without links, if there is one
                found[key] = file
    if num_repeated:
        logger.info(
            "%s: %d files are matched more than once, by several patterns or through links; each "
            "is read once",
            *(where, num_repeated),
        )
    return sorted(found.values(), key=lambda file: (file.name, file.path))


def identity(file: SourceFile, real_paths: RealPaths) -> str:
    """What two spellings of one file have in common: the path without links, or the URL."""
    path = file.path.removeprefix("file://")
    return file.path if "://" in path else real_paths.of(path)


def _list_local(pattern: str, where: str) -> list[SourceFile]:
    return [
        SourceFile(
            file.path,
            printable(file.name),
            file.status.st_size,
            str(file.status.st_mtime_ns),
        )
        for file in local_files(pattern, where)
    ]


def printable(name: str) -> str:
    """A name with an escape (``\\xff``) for each byte that is not UTF-8, for ids and reports."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _list_url(pattern: str, where: str) -> list[SourceFile]:
    try:
        file_system, _ = file_system_of(pattern)
        bare_root, found = retried(pattern, lambda: _found_at(file_system, pattern))
    except (UserError, UrlError) as error:
        raise UserError(f"{where}: {pattern!r} cannot be listed: {error}") from error
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


def _found_at(file_system: Any, pattern: str) -> tuple[str, list[tuple[str, dict[str, Any]]]]:
    """(the searched folder, what matches in it) of a URL, as the store lists it now."""
    file_system.invalidate_cache()
    root, inner = _split_url(file_system, pattern)
    bare_root = file_system._strip_protocol(root)
    if inner:
        bare_pattern = "/".join([glob.escape(bare_root), *inner])
        return bare_root, sorted(file_system.glob(bare_pattern, detail=True).items())
    exists = file_system.exists(pattern)
    found = [(bare_root, file_system.info(pattern))] if exists else []
    return bare_root.rpartition("/")[0], found


def _split_url(file_system: Any, pattern: str) -> tuple[str, list[str]]:
    """(the longest start of a URL without wildcard, the rest as names), as of local paths."""
    names = pattern.split("/")
    for number, name in enumerate(names):
        root = "/".join(names[: number + 1])
        if glob.has_magic(name) and not file_system.exists(root):
            return "/".join(names[:number]), names[number:]
    return pattern, []


def _version_of(info: dict[str, Any]) -> str:
    hashes, times = ("ETag", "etag", "md5Hash", "blob_id"), ("LastModified", "last_modified")
    for key in (*hashes, "mtime", *times, "created"):
        if info.get(key) is not None:
            return str(info[key])
    return ""


@contextmanager
def open_file(file: SourceFile) -> Iterator[BinaryIO]:
    """The raw bytes of `file`; raises UserError if it has disappeared or changed since listed, or
    its URL cannot be read. Where it is a URL, see `url_stream.expect`."""
    if "://" in file.path:
        with _reported(file), _open_url(file) as stream:
            yield stream
        return
    _check_unchanged(file)
    with _open_local(file) as stream:
        yield stream
    _check_unchanged(file)


@contextmanager
def _open_url(file: SourceFile) -> Iterator[BinaryIO]:
    _check_unchanged(file)
    raw = UrlStream(UrlFile.of(file.path).read, file.num_bytes)
    try:
        with io.BufferedReader(raw, _URL_BUFFER_BYTES) as stream:
            yield stream
    finally:
        if raw.failure is not None:  # whatever the reader made of it
            raise raw.failure
    _check_unchanged(file)


@contextmanager
def _reported(file: SourceFile) -> Iterator[None]:
    """Makes errors of a URL those of the user."""
    try:
        yield
    except UrlMissingError as error:
        raise UserError(_gone(file)) from error
    except UrlError as error:
        with suppress(UrlError):
            _check_unchanged(file, retry_delays_s=())  # a file that changed may be shorter
        raise UserError(f"cannot be read: {error}") from error


def _open_local(file: SourceFile) -> BinaryIO:
    try:
        return open(file.path, "rb", buffering=_FILE_BUFFER_BYTES)
    except PermissionError as error:
        raise UserError(
            f"{visible_name(file.path)} cannot be read: {error.strerror}; check its owner and its "
            "permissions"
        ) from None


def head_of(file: SourceFile, num_bytes: int) -> bytes:
    """The first `num_bytes` of `file`; raises UserError if it has disappeared or changed."""
    if "://" in file.path:
        with _reported(file):
            return UrlFile.of(file.path).read(0, min(num_bytes, file.num_bytes))
    with open_file(file) as stream:
        return stream.read(num_bytes)


@contextmanager
def open_ranges(file: SourceFile) -> Iterator[Callable[[int, int], bytes]]:
    """Gives a number of bytes from a byte of `file`, fewer at its end: of a URL, nothing else is
    fetched. Raises UserError if the file has disappeared or changed."""
    if "://" in file.path:
        with _reported(file):
            _check_unchanged(file)
            remote = UrlFile.of(file.path)
            yield lambda at, num_bytes: remote.read(max(at, 0), min(at + num_bytes, file.num_bytes))
    else:
        with open_file(file) as stream:
            yield lambda at, num_bytes: os.pread(stream.fileno(), num_bytes, max(at, 0))


def in_windows(read_at: Callable[[int, int], bytes]) -> Callable[[int, int], bytes]:
    """As `read_at`, but reads where places that follow each other are near are read together."""
    last = window_at = 0
    window = b""

    def read(at: int, num_bytes: int) -> bytes:
        nonlocal last, window_at, window
        if not window_at <= at <= at + num_bytes <= window_at + len(window):
            is_near = 0 <= at - last <= _NEAR_BYTES
            window_at, window = at, read_at(at, max(num_bytes, _WINDOW_BYTES * is_near))
        last = at
        return window[at - window_at : at - window_at + num_bytes]

    return read


def _check_unchanged(file: SourceFile, retry_delays_s: Sequence[float] | None = None) -> None:
    if "://" in file.path:
        info = replace(UrlFile.of(file.path), retry_delays_s=retry_delays_s).info()
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


def opening_bytes(file: SourceFile) -> int:
    """How many bytes could be processed in the time that it takes to open `file`.

    About 0.2 ms from a local disk, up to 3 ms from a network file system, and 40 ms from an object
    store; processing takes 1 s for about 15 MB.
    """
    return _URL_OPENING_BYTES if "://" in file.path else _OPENING_BYTES


def byte_spans(file: SourceFile, part_bytes: int, align_bytes: int = 1) -> list[Span]:
    """Spans of about `part_bytes` that cover `file`, cut at multiples of `align_bytes`."""
    step = max(part_bytes // align_bytes, 1) * align_bytes
    starts = range(0, max(file.num_bytes, 1), step)
    return [Span(file, start, min(start + step, file.num_bytes)) for start in starts]
