"""Fields of records by name, or by dotted path: ``data.text``.

    path          record                                          value
    text          {"text": "a"}                                   "a"
    data.text     {"data": {"text": "a"}}                         "a"
    data.text     {"data.text": "a", "data": {"text": "b"}}       "a": a literal key wins
    pages.1       {"pages": ["a", "b"]}                           "b": from 0
    turns.text    {"turns": [{"text": "a"}, {"text": "b"}]}       ["a", "b"]

A list of texts is one text, its elements separated by newlines.
"""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Final

MISSING: Final = object()
"""What `field_of` returns where there is no such field."""
_MAX_INDEX_DIGITS = 9
_MOST_SHOWN, _LEVELS = 12, 4


def field_of(record: Any, path: str) -> Any:
    """The value at `path` of nested objects and lists, or `MISSING`.

    A key that is literally `path`, dots included, wins; so it does within nested objects.
    """
    if isinstance(record, dict | Mapping):  # dict is checked faster
        return _of_object(record, path)
    if isinstance(record, list):
        return _of_list(record, path)
    return MISSING


def _of_object(record: Mapping[str, Any], path: str) -> Any:
    if path in record:
        return record[path]
    at = path.find(".")
    while at >= 0:
        found = field_of(record.get(path[:at]), path[at + 1 :])
        if found is not MISSING:
            return found
        at = path.find(".", at + 1)
    return MISSING


def _of_list(values: list[Any], path: str) -> Any:
    """The element of a number, or the fields of all elements that have them."""
    first, _, rest = path.partition(".")
    if first.isdecimal() and len(first) <= _MAX_INDEX_DIGITS:
        if int(first) >= len(values):
            return MISSING
        element = values[int(first)]
        return field_of(element, rest) if rest else element
    found = [field_of(element, path) for element in values]
    return [value for value in found if value is not MISSING] or MISSING


def texts_in(value: Any) -> list[Any] | None:
    """The texts (str or bytes) that `value` is made of: it is one, or a list of them, or of such
    lists; nulls in lists are left out. None if it is anything else."""
    if isinstance(value, str | bytes):
        return [value]
    if not isinstance(value, list):
        return None
    texts: list[Any] = []
    for element in value:
        inner = [] if element is None else texts_in(element)
        if inner is None:
            return None
        texts += inner
    return texts


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
