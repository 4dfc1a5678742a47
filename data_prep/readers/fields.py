"""Fields of records by name, or by dotted path: ``data.text``."""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Final

_MOST_SHOWN, _LEVELS = 12, 4
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


def shown_fields(record: Mapping[str, Any]) -> str:
    """The fields of a record that hold text, or lists of texts, as a message names them."""
    names = ", ".join(islice(_text_fields(record), _MOST_SHOWN)) or "none"
    return f"fields with text: {names.encode('utf-8', 'backslashreplace').decode()}"


def _text_fields(
    record: Mapping[str, Any], prefix: str = "", levels: int = _LEVELS
) -> Iterator[str]:
    for key, value in record.items():
        first = value[0] if isinstance(value, list) and value else value
        if isinstance(first, str):
            yield f"{prefix}{key}"
        elif isinstance(value, Mapping) and levels:
            yield from _text_fields(value, f"{prefix}{key}.", levels - 1)
