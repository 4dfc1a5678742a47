"""Opens files that someone else may have made: regular files only, inside of their folder, bounded.

A fifo or a device would block a start or never end, and a symbolic link or ``..`` in a manifest
could name any file of the user. Content is read by ``pread``: where a memory map of a file that
became shorter, or of a disk that fails, ends the process by SIGBUS, this is an error with a name.
"""

import errno
import json
import os
import stat
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, BinaryIO

from pydantic import AfterValidator, ValidationError

from configs.load import UserError

_MISSING = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO)
MAX_JSON_BYTES = 1 << 30
"""Largest JSON file that is read: the manifest of about 10^10 rows."""


def _inside_the_folder(path: str) -> str:
    pure = PurePosixPath(path)
    if not pure.parts or pure.is_absolute() or ".." in pure.parts or not path.isprintable():
        raise ValueError(f"{path!r} must be a path inside the folder of the manifest")
    return path


RelativePath = Annotated[str, AfterValidator(_inside_the_folder)]
"""A path in a manifest, relative to the manifest's folder."""


def open_regular(path: str | Path) -> BufferedReader:
    """The regular file at `path`, for reading.

    Raises UserError for a fifo, device or folder, without waiting for it, and OSError as `open`.
    """
    return _open_regular(path, 0)


def open_inside(folder: str | Path, name: str) -> BufferedReader:
    """The regular file `name`, as a manifest in `folder` calls it, for reading.

    Raises UserError for a path that leaves the folder, also through symbolic links, and for what is
    no regular file; OSError as `open`.
    """
    return _open_regular(path_inside(folder, name), os.O_NOFOLLOW)


def path_inside(folder: str | Path, name: str) -> Path:
    """Where `name`, as a manifest in `folder` calls it, is, symbolic links resolved.

    Raises UserError if that is outside of the folder.
    """
    root = os.path.realpath(folder)
    path = os.path.realpath(os.path.join(root, name))
    if not Path(path).is_relative_to(root):
        raise UserError(
            f"{Path(folder) / name}: leads to {path}, outside of the folder; a manifest may only "
            "name files of its own folder"
        )
    return Path(path)


def _open_regular(path: str | Path, flags: int) -> BufferedReader:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | flags)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise UserError(f"{path}: not a regular file")
    except BaseException:
        os.close(descriptor)
        raise
    return open(path, "rb", opener=lambda *_: descriptor)  # the file object knows its name


def read_regular(path: str | Path, limit_bytes: int = MAX_JSON_BYTES) -> bytes:
    """The content of the regular file at `path`.

    Raises UserError if it is larger than `limit_bytes` or no regular file, OSError as `open`.
    """
    with open_regular(path) as file:
        is_large = os.fstat(file.fileno()).st_size > limit_bytes
        content = b"" if is_large else file.read()  # with a size it would take as much at once
    if is_large or len(content) > limit_bytes:
        raise UserError(f"{path}: more than {limit_bytes:,} bytes, so it cannot be what it should")
    return content


Hook = Callable[[dict[str, Any]], None]
"""Changes an object of JSON when it has been read, before the next one is."""


def read_json(
    path: str | Path, limit_bytes: int = MAX_JSON_BYTES, hook: Hook | None = None
) -> dict[str, Any]:
    """The JSON object in the file at `path`; `hook` makes large ones smaller.

    Raises UserError for any other content, a key that appears twice included; OSError as `open`.
    """
    try:
        return parse_json(read_regular(path, limit_bytes), hook)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def parse_json(content: bytes, hook: Hook | None = None) -> dict[str, Any]:
    """The JSON object in `content`; ValueError for any other, a key that appears twice included."""

    def of_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        tree = _unique_keys(pairs)
        if hook is not None:
            hook(tree)
        return tree

    try:
        tree = json.loads(content, object_pairs_hook=of_pairs)
        del content
        # No half of a surrogate pair; what the hook made is no text.
        json.dumps(tree, ensure_ascii=False, default=lambda _: None).encode()
    except RecursionError:
        raise ValueError("not valid JSON: nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"not valid JSON: {error}") from None
    if not isinstance(tree, dict):
        raise ValueError("not a JSON mapping")
    return tree


def first_error(error: ValidationError) -> str:
    """Where and what the first error of a tree is, in a line."""
    first = error.errors(include_url=False)[0]
    message = first["msg"].removeprefix("Value error, ")
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {message}" if where else message


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, value in pairs:
        if name in tree:
            raise ValueError(f"the key {name!r} appears twice")
        tree[name] = value
    return tree


def is_missing(error: OSError) -> bool:
    """Whether `error`, of opening a file, says that there is none, or something else in its place.

    Any other says nothing about the file's content: a file system that failed or does not answer,
    permissions, or too many open files.
    """
    return error.errno in _MISSING


def with_name(error: OSError, path: str | Path) -> OSError:
    """`error` with the name of the file: errors of reading an open file have none."""
    return OSError(error.errno, error.strerror or str(error), str(path))


def read_at(file: BinaryIO, buffer: memoryview, offset: int, advice: str) -> None:
    """Fills `buffer` (bytes) with the content of `file` from the byte `offset` on.

    Raises UserError, which names the file and the byte and ends with `advice`, if the file cannot
    be read or ends before.
    """
    done = 0
    while done < len(buffer):
        try:
            count = os.preadv(file.fileno(), [buffer[done:]], offset + done)
        except OSError as error:
            raise unreadable(file.name, offset + done, error, advice) from None
        if not count:
            raise UserError(
                f"{file.name}: has no byte {offset + done:,}: it became shorter after it was "
                f"checked; {advice}"
            )
        done += count


def unreadable(name: str | Path, offset: int, error: OSError, advice: str) -> UserError:
    """The error for a file that cannot be read at the byte `offset`."""
    reason = error.strerror or str(error)
    return UserError(f"{name}: cannot be read at byte {offset:,}: {reason}; {advice}")
