"""Files that are kept with a run and sent with its record: reports of data preparation.

A data set or a run's folder may come from someone else, so nothing that it says decides which file
is sent: only regular files under fixed names inside the run's folder, opened without following
links. Training copies a report there under the same rule.
"""

import logging
import os
import re
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from pipeline.tracking.json_lines import copy_bytes, open_regular

FOLDER_NAME = "data_report"
MAX_FILE_BYTES = 64 << 20
"""A larger file is not kept."""

_NAME = re.compile(r"report(-\d{1,4})?\.html")

logger = logging.getLogger(__name__)


def keep_reports(output: Path, sources: Sequence[str]) -> list[str]:
    """Copies reports into the run's folder; their names there, as the record holds them.

    A report that is no regular file, or a link, is not copied, which is logged.
    """
    names = []
    for number, source in enumerate(map(Path, sources), 1):
        name = "report.html" if number == 1 else f"report-{number}.html"
        try:
            with open_regular(source) as stream:
                _copy_new(stream, output / FOLDER_NAME, name)
        except OSError as error:
            logger.warning("%s: not kept with the run (%s)", source, error.strerror or error)
        else:
            names.append(name)
    return names


def open_kept(output: Path, name: str) -> BinaryIO | None:
    """The kept file `name` as it may be sent; None, and a message, for any other file."""
    folder = output / FOLDER_NAME
    if not _NAME.fullmatch(name):
        logger.warning("%s: not sent: only %s is", name, folder / "report*.html")
        return None
    try:
        folder_fd = _open_folder(folder)
        try:
            return open_regular(Path(name), folder_fd)
        finally:
            os.close(folder_fd)
    except OSError as error:
        logger.warning("%s: not sent (%s)", folder / name, error.strerror or error)
        return None


def _open_folder(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)


def _copy_new(stream: BinaryIO, folder: Path, name: str) -> None:
    num_bytes = os.fstat(stream.fileno()).st_size
    if num_bytes > MAX_FILE_BYTES:
        raise OSError(f"{num_bytes:,} bytes; at most {MAX_FILE_BYTES:,}")
    folder.mkdir(exist_ok=True)
    folder_fd = _open_folder(folder)
    partial = f".{name}.{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    try:
        with os.fdopen(os.open(partial, flags, 0o644, dir_fd=folder_fd), "wb") as target:
            copy_bytes(stream, target, num_bytes)
        os.replace(partial, name, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)
    except OSError:
        os.unlink(partial, dir_fd=folder_fd)
        raise
    finally:
        os.close(folder_fd)
