"""The files that a path or glob on this machine matches, in a fixed order.

Unlike `glob`, this raises an error for what cannot be read, prefers a name that exists as it is
written to a wildcard at every level, and ends where links lead in circles.
"""

import errno
import fnmatch
import glob
import logging
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from configs.load import UserError
from configs.terminal import visible_name

logger = logging.getLogger(__name__)

_MARKERS = re.compile(
    r"_SUCCESS|_(?:common_)?metadata|_(?:committed|started)_\d.*|_temporary|_delta_log|_spark_metadata"
)
"""Names that Spark, Hadoop, Databricks and Delta Lake write beside the data."""


@dataclass(frozen=True)
class LocalFile:
    """A regular file."""

    path: str
    """As the pattern spells it."""
    name: str
    """Its path relative to the folder of the pattern."""
    status: os.stat_result


def local_files(pattern: str, where: str) -> list[LocalFile]:
    """The regular files that `pattern` matches.

    Raises UserError, which names the config key `where`, for a folder, and for what cannot be read.
    """
    root, inner = _split(pattern)
    if os.path.isdir(pattern):
        raise UserError(
            f"{where}: {visible_name(pattern)!r} is a folder; write a pattern such as "
            f"{visible_name(pattern.rstrip(os.sep))}/*"
        )
    base = root if inner else os.path.dirname(pattern)
    search = _Search()
    files = []
    try:
        for path in search.matches(root, inner):
            status = _status_of(path)
            if status is None or stat.S_ISDIR(status.st_mode):
                continue
            if stat.S_ISREG(status.st_mode):
                if not os.access(path, os.R_OK):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
                files.append(LocalFile(path, os.path.relpath(path, base or "."), status))
            elif not inner:
                raise UserError(f"{where}: {visible_name(path)!r} is no regular file")
    except OSError as error:
        raise UserError(f"{where}: {_reason(error, pattern)}") from None
    if search.num_markers:
        logger.info(
            "%s: %d files or folders such as _SUCCESS, which other tools write beside the data, are"
            " not read (%s)",
            *(where, search.num_markers, visible_name(pattern)),
        )
    return files


class RealPaths:
    """Paths without links, by which one file in two spellings is known."""

    def __init__(self) -> None:
        self._folders: dict[str, str] = {}

    def of(self, path: str) -> str:
        """The path of a file without links."""
        if os.path.islink(path):
            return os.path.realpath(path)
        folder, name = os.path.split(path)
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(folder or ".")
        return os.path.join(self._folders[folder], name)


def _status_of(path: str) -> os.stat_result | None:
    """The status of what `path` leads to; None if there is nothing of this name. Raises OSError if
    it cannot be read, and for a link that leads nowhere."""
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        if os.path.lexists(path):
            raise
        return None


def _is_folder(path: str) -> bool:
    """Whether this is a folder. Raises OSError if that cannot be seen."""
    try:
        return stat.S_ISDIR(os.stat(path or ".").st_mode)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return False
        raise


def _reason(error: OSError, pattern: str) -> str:
    path = error.filename or pattern
    if os.path.islink(path) and error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
        return (
            f"{visible_name(path)} is a link to {visible_name(os.readlink(path))}, which does not "
            "exist; restore it, or remove the link"
        )
    return (
        f"{visible_name(path)} cannot be read: {error.strerror}; check that it is mounted, its "
        "owner and its permissions"
    )


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


class _Search:
    """The search for the names of one pattern."""

    def __init__(self) -> None:
        self.num_markers = 0
        """How many names of other tools' markers were skipped."""

    def matches(self, folder: str, names: Sequence[str]) -> Iterator[str]:
        """The paths below `folder` that match `names`, those of a folder in the order of names."""
        if not names:
            yield folder
            return
        if not _is_folder(folder):
            return
        name, rest = names[0], names[1:]
        if name == "**":
            for inner in self._folders_below(folder):
                yield from self.matches(inner, rest or ["*"])
            return
        for entry in self._entries(folder, name):
            path = os.path.join(folder, entry)
            if not rest or _is_folder(path):
                yield from self.matches(path, rest)

    def _entries(self, folder: str, name: str) -> list[str]:
        """The names in `folder` that are `name`, or match it if there is none."""
        if not glob.has_magic(name) or os.path.lexists(os.path.join(folder, name)):
            return [name]
        found = fnmatch.filter(_names_in(folder), name)
        if not name.startswith("."):
            found = [entry for entry in found if not entry.startswith(".")]
        if not name.startswith("_"):
            markers = {entry for entry in found if _MARKERS.fullmatch(entry)}
            self.num_markers += len(markers)
            found = [entry for entry in found if entry not in markers]
        return sorted(found)

    def _folders_below(self, folder: str) -> Iterator[str]:
        """`folder` and all folders below it, each once. Of a folder that links lead to as well, the
        path without links; links that lead in circles end."""
        seen = set()
        linked = [folder]
        while linked:
            waiting, linked = linked[::-1], []
            while waiting:
                current = waiting.pop()
                status = os.stat(current or ".")
                if (status.st_dev, status.st_ino) in seen:
                    continue
                seen.add((status.st_dev, status.st_ino))
                yield current
                inner = [os.path.join(current, name) for name in self._entries(current, "*")]
                folders = [path for path in inner if _is_folder(path)]
                linked += [path for path in folders if os.path.islink(path)]
                waiting += [path for path in folders[::-1] if not os.path.islink(path)]


def _names_in(folder: str) -> list[str]:
    with os.scandir(folder or ".") as entries:
        return [entry.name for entry in entries]
