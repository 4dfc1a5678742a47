"""Parses one JSON value, leniently where nothing is lost by it."""

import json
from typing import Any

import orjson

from data_prep.readers.likely_encoding import why_not_utf_8

MAX_VALUES = 4_000_000
"""Commas, braces and brackets of a record, those in texts included. As objects these values take
half a gigabyte, in a record of a few kilobytes when compressed."""
_MAX_DIGITS = 600
"""Of an integer; Python's own limit cannot be set lower."""
NOT_JSON = "not JSON"
CUT_RECORD = "the file ends inside a record"
"""The reason under which the last record of a file that is cut is counted."""


def parse_json(raw: bytes) -> tuple[Any, bool]:
    """(the value of a record, whether it is known to hold no surrogates); ValueError if it is none.

    What the fast parser rejects, Python's own may accept: NaN, Infinity and numbers of any length
    are not JSON, but Python writes them. A byte order mark is skipped. Bytes that are not UTF-8
    become surrogates, and halves of surrogate pairs stay: they matter only in the text.
    """
    try:
        return orjson.loads(raw), True
    except orjson.JSONDecodeError:
        try:
            text = raw.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
            return json.loads(text, parse_int=_integer), False
        except RecursionError as error:
            raise ValueError("nested too deeply") from error


def _integer(digits: str) -> int | str:
    """An integer; as text where it is too long for Python, which refuses it."""
    return int(digits) if len(digits) <= _MAX_DIGITS else digits


def why_not_unicode(raw: bytes) -> str:
    """The reason under which a record is counted whose text holds surrogates."""
    try:
        raw.decode()
    except UnicodeDecodeError:
        return why_not_utf_8(raw)
    return "half a surrogate pair in the text"


def holds_surrogates(text: str) -> bool:
    """Whether `text` holds surrogates, so that it cannot be written."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def wrapper_reason(key: str) -> str:
    """The reason for a file that is one object with the records in an array under `key`."""
    return f"one object that holds the records in an array under {key!r}: write that array alone"
