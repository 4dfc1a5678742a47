"""Fields of records by name, or by dotted path: ``data.text``."""

from collections.abc import Mapping
from typing import Any, Final

MISSING: Final = object()
"""What `field_of` returns where there is no such field."""


def field_of(record: Mapping[str, Any], path: str) -> Any:
    """The value at `path` of nested objects, or `MISSING`.

    A key that is literally `path`, dots included, wins; so it does within nested objects.
    """
    if path in record:
        return record[path]
    at = path.find(".")
    while at >= 0:
        inner = record.get(path[:at])
        if isinstance(inner, Mapping):
            found = field_of(inner, path[at + 1 :])
            if found is not MISSING:
                return found
        at = path.find(".", at + 1)
    return MISSING
