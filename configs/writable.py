"""Whether a command can write its output, found out before anything is read or computed for it."""

import os
from pathlib import Path

from configs.load import UserError


def check_folder(folder: Path, key: str) -> None:
    """Makes nothing; raises UserError if no file can be written into `folder`, which may not exist.

    `key` is what the command line or the config calls it.
    """
    if problem := why_not_writable(folder):
        raise UserError(f"{key} {folder}: {problem}")


def check_file(path: Path, key: str) -> None:
    """The same for a file, whose folder may not exist."""
    if path.is_dir():
        raise UserError(f"{key} {path}: a folder, where the name of a file is expected")
    if problem := why_not_writable(path.parent):
        raise UserError(f"{key} {path}: {problem}")


def why_not_writable(folder: Path) -> str | None:
    """Why nothing can be written into a folder, or into the first above it that exists; None if
    it can."""
    for existing in (folder, *folder.absolute().parents):
        try:
            os.stat(existing)
        except (FileNotFoundError, NotADirectoryError):
            if existing.is_symlink():
                return f"{existing} is a link to nothing"
            continue
        except OSError as error:
            return f"{existing}: {error.strerror}"
        existing = existing.absolute()
        if not existing.is_dir():
            return f"{existing} is no folder: choose a different one"
        if os.access(existing, os.W_OK | os.X_OK):
            return None
        if os.statvfs(existing).f_flag & os.ST_RDONLY:
            return f"{existing} cannot be written: its file system is read-only"
        return f"{existing} cannot be written: check its owner and its permissions"
    return None
