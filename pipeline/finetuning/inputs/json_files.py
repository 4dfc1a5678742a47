"""JSON lines, and JSON files that hold a list of objects."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from configs.load import Config, UserError
from pipeline.finetuning.inputs.content import not_utf8, text_of
from pipeline.finetuning.inputs.fields import Fields
from pipeline.finetuning.inputs.record import BadRecord, Record


class JsonLines(Config):
    """One JSON object per line; blank lines are left out."""

    type: Literal["jsonl"] = "jsonl"

    def records(self, path: Path, fields: Fields) -> Iterator[Record]:
        """The lines of a file."""
        with text_of(path) as stream:
            for number, text in enumerate(stream, start=1):
                if text.strip():
                    yield _record(f"line {number}", text, fields)


class JsonFile(Config):
    """One JSON value: a list of objects, an object with such a list under "data", or one record."""

    type: Literal["json"] = "json"

    def records(self, path: Path, fields: Fields) -> Iterator[Record]:
        """The objects of a file."""
        tree = read_json_file(path)
        is_record = isinstance(tree, dict) and not isinstance(tree.get("data"), list)
        for number, item in enumerate([tree] if is_record else items_of(tree, path), start=1):
            yield record_of(f"record {number}", item, fields)


def read_json_file(path: Path) -> Any:
    """The value in a JSON file; UserError where it holds none."""
    with text_of(path) as stream:
        text = stream.read()
    if problem := not_utf8(text):
        raise UserError(f"{path}: {problem}")
    try:
        return parsed(text)
    except BadRecord as error:
        raise UserError(f"{path}: {error}") from None


def items_of(tree: Any, path: Path) -> list[Any]:
    """The list in a JSON value; UserError where there is none."""
    items = tree.get("data") if isinstance(tree, dict) else tree
    if not isinstance(items, list):
        raise UserError(f'{path}: neither a list nor an object with a list under "data"')
    return items


def parsed(text: str) -> Any:
    """The value of a JSON text; BadRecord where it is none."""
    try:
        return json.loads(text)
    except RecursionError:
        raise BadRecord("syntax", "not valid JSON: brackets are nested too deeply") from None
    except ValueError as error:
        raise BadRecord("syntax", f"not valid JSON: {error}") from None


def _record(place: str, text: str, fields: Fields) -> Record:
    if problem := not_utf8(text):
        return Record(place, error=BadRecord("syntax", problem))
    try:
        return record_of(place, parsed(text), fields)
    except BadRecord as error:
        return Record(place, error=error)


def record_of(place: str, item: Any, fields: Fields) -> Record:
    """The record of one JSON object."""
    if not isinstance(item, Mapping):
        return Record(place, error=BadRecord("syntax", "not a JSON object"))
    try:
        return Record(place, fields.in_mapping(item))
    except BadRecord as error:
        return Record(place, error=error)
