"""Paths in configs: ``~``, ``$NAME`` and ``${NAME}`` stand for what they do in a shell."""

import os
import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_VARIABLE = re.compile(r"\$(?:(\$)|\{([^}]*)\}|([A-Za-z_][A-Za-z0-9_]*))")


def expanded(path: str) -> str:
    """`path` with the home folder for ``~`` or ``~user`` at its start and the values of environment
    variables; ``$$`` is a dollar sign. A file that has exactly this name is meant as it is.

    Raises ValueError for a variable that is not set and for a user that does not exist.
    """
    if ("$" not in path and not path.startswith("~")) or os.path.lexists(path):
        return path
    text = _VARIABLE.sub(_value, path)
    if not path.startswith("~"):
        return text
    home, slash, rest = text.partition("/")
    folder = os.path.expanduser(home)
    if folder == home:
        raise ValueError(f"{path!r}: {home} has no home folder on this machine")
    return folder + slash + rest


def _value(found: "re.Match[str]") -> str:
    if found[1]:
        return "$"
    name = found[2] or found[3] or ""
    value = os.environ.get(name)
    if value is None:
        raise ValueError(
            f"{found.string!r}: the environment variable {name!r} is not set; set it, or write $$ "
            "for a dollar sign"
        )
    return value


def is_url(path: object) -> bool:
    """Whether this is the text of a URL, such as ``s3://bucket/rows``."""
    return isinstance(path, str) and _URL.match(path) is not None


def _local(path: str) -> str:
    if is_url(path):
        raise ValueError(f"{path!r} is a URL; this must be a path in a file system of this machine")
    return path


def _expanded_path(path: object) -> object:
    return _local(expanded(str(path))) if isinstance(path, str | Path) else path


ConfigPath = Annotated[Path, BeforeValidator(_expanded_path)]
"""A path in a config. A URL is refused: as a path it would be that of a folder ``s3:``."""
ConfigPathText = Annotated[str, AfterValidator(expanded), AfterValidator(_local)]
"""A path or glob in a config."""
ConfigPathOrUrl = Annotated[str, AfterValidator(expanded)]
"""A path, glob or URL in a config."""
