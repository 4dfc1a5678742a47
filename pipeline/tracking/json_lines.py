"""Files of one JSON object per line: appended to after a torn line, read past unreadable ones.

A crash or a full disk can leave an incomplete last line. It is removed before anything is appended,
so that the next line does not become part of it.
"""

import errno
import json
import logging
import os
import stat
from collections import deque
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

MAX_LINE_BYTES = 16 << 20
"""A longer line is not read."""
CHUNK_BYTES = 1 << 16

logger = logging.getLogger(__name__)


def open_regular(path: Path, dir_fd: int | None = None) -> BinaryIO:
    """The file at `path`, opened to read, if it is a regular file and no link.

    `dir_fd`: the folder of a relative path. Raises OSError otherwise.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # a fifo would wait for its writer
    file = os.open(path, flags, dir_fd=dir_fd)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(f"{path}: not a regular file")
    return os.fdopen(file, "rb")


def append_lines(path: Path, lines: deque[bytes]) -> None:
    """Appends `lines` to the file, and removes each from the queue once it is written.

    An incomplete last line of the file is removed first, which is logged. Raises OSError.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    file = os.open(path, flags, 0o644)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError(f"{path}: not a regular file")
        while lines:
            _repair_end(file, path)
            written = os.write(file, lines[0])
            if written < len(lines[0]):
                _repair_end(file, path)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            lines.popleft()
    finally:
        os.close(file)


def _repair_end(file: int, path: Path) -> None:
    size = os.fstat(file).st_size
    if size == 0 or os.pread(file, 1, size - 1) == b"\n":
        return
    end = _last_line_end(file, size)
    tail = os.pread(file, MAX_LINE_BYTES, end)
    if size - end <= MAX_LINE_BYTES and isinstance(parse_line(tail), dict):
        os.write(file, b"\n")
        logger.warning("%s: the last line had no line end: added", path)
        return
    os.ftruncate(file, end)
    logger.warning(
        "%s: the last line was incomplete (bytes %d to %d) and is removed", path, end, size
    )


def _last_line_end(file: int, size: int) -> int:
    """The offset after the last line end, 0 without one."""
    end = size
    while end > 0:
        start = max(0, end - CHUNK_BYTES)
        found = os.pread(file, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def read_objects(
    path: Path, offset: int = 0, is_valid: Callable[[Any], bool] = lambda _: True
) -> Iterator[tuple[dict[str, Any], int]]:
    """Each complete line from byte `offset` on, with the byte offset of its end.

    A line that holds no JSON object, or none for which `is_valid`, is skipped and reported.
    """
    with open_regular(path) as stream:
        stream.seek(offset)
        while line := stream.readline(MAX_LINE_BYTES):
            start, offset = offset, offset + len(line)
            value = parse_line(line) if line.endswith(b"\n") else None
            while not line.endswith(b"\n"):
                line = stream.readline(MAX_LINE_BYTES)
                if not line:
                    return  # being written, or cut off by a crash
                offset += len(line)
            if isinstance(value, dict) and is_valid(value):
                yield value, offset
            elif offset > start + 1:
                _report_unreadable(path, start, offset)


def copy_bytes(source: BinaryIO, target: BinaryIO, num_bytes: int) -> None:
    """Copies the next `num_bytes` bytes."""
    while num_bytes > 0 and (chunk := source.read(min(num_bytes, CHUNK_BYTES))):
        target.write(chunk)
        num_bytes -= len(chunk)


def parse_line(line: bytes) -> Any:
    """The JSON value in a line, None where it holds none."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


@lru_cache(maxsize=1000)  # once per process, however often the file is read
def _report_unreadable(path: Path, start: int, end: int) -> None:
    number, position = 1, 0
    with open_regular(path) as stream:
        while position < start and (chunk := stream.read(min(CHUNK_BYTES, start - position))):
            number += chunk.count(b"\n")
            position += len(chunk)
    logger.warning(
        "%s: line %d (bytes %d to %d) is unreadable and skipped", path, number, start, end
    )
