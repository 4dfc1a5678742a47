"""Fields of a record that are kept beside its text: `metadata_fields` of the readers."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from data_prep.readers.fields import MISSING, field_of

Metadata = Mapping[str, Any]
"""Values by field; JSON values, or what `as_json` can write as one."""
_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY


def metadata_of(record: Mapping[str, Any], fields: Sequence[str]) -> Metadata | None:
    """The `fields` that a record has, by name or dotted path; None where none are wanted."""
    if not fields:
        return None
    found = {field: field_of(record, field) for field in fields}
    return {field: value for field, value in found.items() if value is not MISSING}


def as_json(metadata: Metadata) -> bytes:
    """Metadata as a JSON object. Halves of surrogate pairs are replaced; dates, decimals and other
    values that JSON lacks are written as text."""
    try:
        return orjson.dumps(metadata, default=str, option=_OPTIONS)
    except TypeError:  # half a surrogate pair, or an integer of more than 64 bits
        return orjson.dumps(_plain(metadata), default=str, option=_OPTIONS)


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {_plain(str(key)): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
        return str(value)
    return value
