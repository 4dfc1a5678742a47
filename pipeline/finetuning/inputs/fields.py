"""Where the fields of a task stand in the records of a file: by name, or by number in tables."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator

from configs.load import ConfigError
from pipeline.finetuning.inputs.record import BadRecord

MAX_SHOWN_NAMES = 30


def _is_no_flag(source: Any) -> Any:
    if isinstance(source, bool):
        raise ValueError("the name or the number of a column is expected")
    return source


Column = Annotated[str | int, BeforeValidator(_is_no_flag)]
"""A column's name, or its number counting from 1, or from -1 at the end."""
FieldSource = Column | tuple[Column, ...]
"""Where a field stands; of several columns it is the list."""
Place = int | tuple[int, ...]
"""Indices of columns, counting from 0."""


@dataclass(frozen=True)
class Fields:
    """The fields of a task's records, and where the config says that they stand."""

    required: tuple[str, ...]
    optional: tuple[str, ...]
    """Among them `id`."""
    sources: Mapping[str, FieldSource]
    """By field; a field that is not in it stands under its own name."""
    may_lack: tuple[str, ...] = ()
    """Fields that files need not have, even where `sources` names their columns."""

    @property
    def names(self) -> tuple[str, ...]:
        """All fields."""
        return (*self.required, *self.optional)

    def is_needed(self, name: str) -> bool:
        """Whether a file without the field is an error."""
        return name in self.required or (name in self.sources and name not in self.may_lack)

    def source(self, name: str) -> FieldSource:
        """Where a field stands."""
        return self.sources.get(name, name)

    def in_columns(self, header: Sequence[str] | None, num_columns: int, path: str) -> "Columns":
        """The fields in a table with the names `header` (None: without names).

        Raises ConfigError that names every column that does not exist.
        """
        places: dict[str, Place] = {}
        errors = []
        for name in self.names:
            source = self.source(name)
            columns = source if isinstance(source, tuple) else (source,)
            found = []
            for column in columns:
                index = _index_of(column, header, num_columns)
                if index is not None:
                    found.append(index)
                elif self.is_needed(name):
                    errors.append(_no_column(name, column, header, num_columns))
            if len(found) == len(columns):
                places[name] = tuple(found) if isinstance(source, tuple) else found[0]
        if errors:
            raise ConfigError(f"{path}: {'; '.join(errors)}")
        return Columns(places)

    def named(self, header: Sequence[str], path: str) -> "Fields":
        """The fields by name only, without those that a table with these columns lacks.

        A name may be a dotted path into a column of structures. Raises ConfigError that names every
        column that does not exist.
        """
        sources: dict[str, FieldSource] = {}
        errors = []
        for name in self.names:
            source = self.source(name)
            columns = source if isinstance(source, tuple) else (source,)
            found = []
            for column in columns:
                index = _index_of(column, header, len(header))
                if isinstance(column, int) and index is not None:
                    found.append(header[index])
                elif _root(str(column), header) in header:
                    found.append(str(column))
                elif self.is_needed(name):
                    errors.append(_no_column(name, column, header, len(header)))
            if len(found) == len(columns):
                sources[name] = tuple(found) if isinstance(source, tuple) else found[0]
        if errors:
            raise ConfigError(f"{path}: {'; '.join(errors)}")
        optional = tuple(name for name in self.optional if name in sources)
        return Fields(self.required, optional, sources)

    def roots(self, header: Sequence[str]) -> list[str]:
        """The columns that hold the fields, after `named`."""
        found: dict[str, None] = {}
        for name in self.names:
            source = self.source(name)
            for column in source if isinstance(source, tuple) else (source,):
                found[_root(str(column), header)] = None
        return list(found)

    def in_mapping(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """The values of the fields in a JSON object.

        Raises BadRecord for a field that the config names and the object lacks.
        """
        values = {}
        for name in self.names:
            source = self.source(name)
            columns = source if isinstance(source, tuple) else (source,)
            found = [value for column in columns for value in _values_at(record, column)]
            if len(found) == len(columns):
                values[name] = found if isinstance(source, tuple) else found[0]
            elif name in self.required:
                raise BadRecord("missing", _no_key(name, source, record))
        return values


@dataclass(frozen=True)
class Columns:
    """The fields in a table."""

    places: Mapping[str, Place]

    @property
    def num_needed(self) -> int:
        """The columns that a record has at least."""
        places = self.places.values()
        return 1 + max(max(p) if isinstance(p, tuple) else p for p in places) if places else 0

    def values(self, cells: Sequence[Any]) -> dict[str, Any]:
        """The values of the fields in a record with these cells."""
        return {
            name: [cells[p] for p in place] if isinstance(place, tuple) else cells[place]
            for name, place in self.places.items()
        }


def _root(column: str, header: Sequence[str]) -> str:
    """The column that a dotted path starts at."""
    return column if column in header else column.split(".")[0]


def _index_of(column: Column, header: Sequence[str] | None, num_columns: int) -> int | None:
    if isinstance(column, str):
        return header.index(column) if header is not None and column in header else None
    if column == 0 or abs(column) > num_columns:
        return None
    return column - 1 if column > 0 else num_columns + column


def _no_column(name: str, column: Column, header: Sequence[str] | None, num_columns: int) -> str:
    if header is None:
        hint = f"number it, 1 to {num_columns}: fields: {{{name}: 1}}"
        return f"no column {column!r} for {name}: the file has no header: {hint}"
    hint = f"set fields: {{{name}: COLUMN}}, or format.header: false if the first line is no header"
    return f"no column {column!r} for {name}{did_you_mean(column, header)}; {hint}"


def _no_key(name: str, source: FieldSource, record: Mapping[str, Any]) -> str:
    column = source if isinstance(source, str) else name
    hint = did_you_mean(column, [str(key) for key in record])
    if column == name or _values_at(record, column):
        return f"{name}: required, but missing{hint}"
    return f"no field {column!r} for {name}{hint}; set fields: {{{name}: FIELD}}"


def did_you_mean(name: object, available: Sequence[str]) -> str:
    """What exists instead of `name`, as the rest of a sentence."""
    shown = [text if len(text) <= 40 else f"{text[:40]}..." for text in available]
    rest = ", ..." * (len(shown) > MAX_SHOWN_NAMES)
    close = difflib.get_close_matches(str(name), available, 1, 0.6)
    names = f"{', '.join(shown[:MAX_SHOWN_NAMES]) or 'none'}{rest}"
    return f"; did you mean {close[0]!r}? There are {names}" if close else f"; there are {names}"


def _values_at(record: Mapping[str, Any], column: Column) -> list[Any]:
    """The value at a key, or at a dotted path of keys, in a list; empty where there is none."""
    if column in record:
        return [record[str(column)]]
    node: Any = record
    for key in str(column).split("."):
        if not isinstance(node, Mapping) or key not in node:
            return []
        node = node[key]
    return [node]
