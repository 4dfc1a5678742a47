"""Writes files whole or not at all, also if the process or the machine stops at any moment.

A file is written under a temporary name in its own folder, flushed to disk and renamed, and the
folder is flushed too. Nothing reads a file with the suffix ``.partial-PID-RANDOM``. It is made
exclusively, so that a file or link that somebody else put there is neither followed nor written.
"""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

PARTIAL_MARK = ".partial-"


@contextmanager
def open_atomic(path: Path) -> Iterator[BinaryIO]:
    """A binary file that appears as `path`, whole and on disk, when the block ends without error.

    An exception inside the block removes the temporary file and leaves `path` as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}{PARTIAL_MARK}{os.getpid()}-{secrets.token_hex(4)}")
    try:
        # The mode is that of `open`: what the umask leaves.
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        error.filename = str(path)  # nobody knows the temporary name
        raise
    try:
        with open(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        fsync_folder(path.parent)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT) and error.filename is None:
            error.filename = str(path)  # so that the message names the full disk
        partial.unlink(missing_ok=True)
        raise
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_atomic(path: Path, content: bytes | str) -> None:
    """Writes `content` (text as UTF-8) to `path`, whole or not at all."""
    with open_atomic(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def save_array(path: Path, array: npt.NDArray[Any]) -> None:
    """Writes a .npy file, whole or not at all."""
    with open_atomic(path) as file:
        np.save(file, array, allow_pickle=False)


def start_array(file: BinaryIO, shape: tuple[int, ...], dtype: npt.DTypeLike) -> int:
    """Writes the start of a .npy file, whose numbers the caller writes; where these start."""
    descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.tell()


def fsync_folder(folder: Path) -> None:
    """Makes changes of names in `folder` (a rename, a new file) survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
