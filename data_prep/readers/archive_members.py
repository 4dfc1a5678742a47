"""What the members of an archive are, whatever its format."""

import io
import re
from typing import NamedTuple

DAMAGED_ARCHIVE = "damaged or truncated archive"
"""The reason under which damage of an archive, other than of its compression, is counted."""
_METADATA = re.compile(r"(?:^|/)(?:__MACOSX/|\._[^/]*$|\.DS_Store$)")


class Member(NamedTuple):
    """A member of an archive."""

    name: str
    at: int
    """Byte of the archive (of a compressed one, of its content) at which it starts."""
    num_bytes: int
    """Size of its content; in the archive, if it cannot be read."""
    stream: io.RawIOBase | None
    """Its content; None for what is skipped or cannot be read."""
    skipped: str = ""
    """What is skipped: a folder, a link, ...."""
    problem: str = ""
    """Why it cannot be read."""


def is_metadata(name: str) -> bool:
    """Whether a member is what macOS adds to archives beside the files."""
    return _METADATA.search(name) is not None


def printable(name: str) -> str:
    """A member's name as it is in ids: bytes that are not UTF-8 are escaped."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
