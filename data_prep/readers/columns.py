"""Columns of texts and ids in tables, and what the columnar (Arrow) formats share."""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import pyarrow as pa

from data_prep.readers.arrow_paths import ArrowPath, find_field, is_text, text_fields
from data_prep.readers.arrow_values import is_bytes, text_values, values_of
from data_prep.readers.compression import is_damage
from data_prep.readers.document import BadRecords, Document
from data_prep.readers.fields import MISSING, field_of, texts_in
from data_prep.readers.files import SourceFile, Span
from data_prep.readers.likely_encoding import likely_encoding
from data_prep.readers.metadata import Metadata
from data_prep.readers.reader import NoFieldError, RecordsConfig

ARROW_ERRORS = (pa.ArrowException, OSError, EOFError, UnicodeDecodeError)
"""What pyarrow raises for a damaged file; a bare OSError too, see `compression.is_damage`."""
_SLICE_ROWS, _SLICE_BYTES = 1024, 1 << 25
"""Rows, and about how many bytes of them, that are converted at once. Damage costs its slice."""
_UNDECODED = re.compile(rb"\xed[\xb2-\xb3][\x80-\xbf]")
"""A byte that is not UTF-8, in a name of a column."""
_MOST_SHOWN = 30


@dataclass(frozen=True)
class Columns:
    """The columns that hold the texts, the records' own ids, and metadata."""

    text: str
    id: str | None
    metadata: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: RecordsConfig) -> "Columns":
        """The columns that a config names."""
        return cls(config.text_field, config.id_field, config.metadata_fields)

    def no_field(self, name: str, available: Sequence[str], path: str) -> str:
        """The message for a file at `path` that has no column `name`."""
        names = [name if len(name) <= 40 else f"{name[:40]}..." for name in available]
        shown = ", ".join(names[:_MOST_SHOWN]) + (", ..." * (len(available) > _MOST_SHOWN))
        close = difflib.get_close_matches(name.lower(), [n.lower() for n in available], 1, 0.6)
        meant = next((n for n in available if close and n.lower() == close[0]), None)
        raw = ",".join(available).encode("utf-8", "surrogatepass")
        if _UNDECODED.search(raw):  # of a table in another encoding
            return f"{path}: no column {name!r}; its header is not in UTF-8: set `encoding`"
        return (
            f"{path}: no column {name!r}"
            + (f" (did you mean {meant!r}?)" if meant else "")
            + f"; it has {shown or 'no columns'}: set the reader's text_field and id_field"
        )

    def in_schema(self, schema: pa.Schema, file: SourceFile) -> "ArrowColumns":
        """These columns in an Arrow file. Raises UserError if two have the same name."""
        found = {
            name: find_field(schema, name, file.path)
            for name in (self.text, self.id, *self.metadata)
            if name is not None
        }
        return ArrowColumns(self, schema, file, found)


class ArrowColumns:
    """Columns of one Arrow or Parquet file."""

    def __init__(
        self,
        columns: Columns,
        schema: pa.Schema,
        file: SourceFile,
        found: Mapping[str, ArrowPath | None],
    ) -> None:
        self._columns, self._schema, self._file, self._found = columns, schema, file, found
        text = found[columns.text]
        is_null = text is None or pa.types.is_null(text.type)
        self.text = text if text is not None and is_text(text.type) else None
        """None if the file has no such column, or one without text."""
        state = "missing" if is_null else "no text"
        self._why_no_text = f"the field {columns.text!r} is {state}"

    @property
    def paths(self) -> list[ArrowPath]:
        """The columns to read."""
        wanted = [path for path in self._found.values() if path is not None]
        return wanted if self.text is not None else []

    def check(self, spans: Sequence[Span]) -> None:
        """Raises NoFieldError, with the spans by which the file is read all the same, unless it has
        the text and id columns, with text in the text column."""
        for name in (self._columns.text, self._columns.id):
            path = None if name is None else self._found[name]
            if name is not None and path is None:
                shown = text_fields(self._schema) if name == self._columns.text else []
                names = shown or self._schema.names
                raise NoFieldError(self._columns.no_field(name, names, self._file.path), spans)
            if path is not None and name == self._columns.text and self.text is None:
                texts = ", ".join(text_fields(self._schema)[:_MOST_SHOWN]) or "none"
                raise NoFieldError(
                    f"{self._file.path}: the column {name!r} holds {path.type}, not text; columns "
                    f"with text: {texts}",
                    spans,
                )

    def without_text(self, first_row: int, num_rows: int, num_bytes: int, bad: BadRecords) -> None:
        """Counts the rows of a file without the text column, of `num_bytes` together."""
        detail = f"columns: {', '.join(self._schema.names[:_MOST_SHOWN])}"
        for row in range(num_rows):
            share = num_bytes * (row + 1) // num_rows - num_bytes * row // num_rows
            bad.add(self._file.path, first_row + row, self._why_no_text, detail, share)

    def documents_in(
        self, batch: pa.RecordBatch, first_row: int, row_bytes: float, bad: BadRecords
    ) -> Iterator[Document]:
        """The documents of a batch that starts at row `first_row` of the file; what is damaged is
        counted with `row_bytes` for each row, and reading continues after it."""
        num_rows = self._slice_rows(batch)
        for start in range(0, batch.num_rows, num_rows):
            rows = batch.slice(start, num_rows)
            at = first_row + start
            try:
                for row, (value, own_id, metadata) in enumerate(self._records(rows), at):
                    text = self._text(value, row, bad)
                    if text is not None:
                        name = f"{self._file.name}:{row}" if own_id is None else str(own_id)
                        yield Document(text, name, row, metadata)
            except ARROW_ERRORS as error:
                if not is_damage(error):
                    raise
                lost = round(rows.num_rows * row_bytes)
                bad.add_damage(self._file.path, at, "damaged column", str(error), lost)

    def _slice_rows(self, batch: pa.RecordBatch) -> int:
        assert self.text is not None
        column = batch.column(self.text.column)
        if not is_bytes(column.type):  # elsewhere values may be shared
            return _SLICE_ROWS
        row_size: int = column.nbytes // max(batch.num_rows, 1)
        return max(1, min(_SLICE_ROWS, _SLICE_BYTES // max(row_size, 1)))

    def _records(self, rows: pa.RecordBatch) -> Iterator[tuple[Any, Any, Metadata | None]]:
        """(content of the text, own id, metadata) of every row; all are checked before the first is
        given."""
        assert self.text is not None
        array, inner = self.text.array(rows)
        contents = list(values_of(array))
        if inner:
            contents = [field_of(value, inner) for value in contents]
        own_id = self._columns.id
        ids = self._values(own_id, rows) if own_id is not None else None
        fields = {name: self._values(name, rows) for name in self._columns.metadata}
        found = {name: values for name, values in fields.items() if values is not None}
        if ids is None and not fields:
            yield from zip(contents, repeat(None), repeat(None))
            return
        for number, content in enumerate(contents):
            metadata = {name: values[number] for name, values in found.items()}
            kept = {name: value for name, value in metadata.items() if value is not MISSING}
            row_id = None if ids is None or ids[number] is MISSING else ids[number]
            yield content, row_id, kept if fields else None

    def _values(self, name: str, rows: pa.RecordBatch) -> list[Any] | None:
        """The values of a column other than the text; None if it is missing or damaged: a record is
        lost for its text only."""
        path = self._found[name]
        if path is None:
            return None
        try:
            array, inner = path.array(rows)
            return [_within(value, inner) for value in text_values(array)]
        except ARROW_ERRORS as error:
            if not is_damage(error):
                raise
            return None

    def _text(self, value: Any, row: int, bad: BadRecords) -> str | None:
        """The text of a row; None, counted in `bad`, if it has none that can be used."""
        path = self._file.path
        if value is None or value is MISSING:
            bad.add(path, row, f"the field {self._columns.text!r} is missing")
            return None
        content = value if isinstance(value, bytes) else self._joined(value, row, bad)
        if content is None:
            return None
        if bad.is_too_long(content, path, row):
            return None
        try:
            text: str = content.decode("utf-8")
        except UnicodeDecodeError as error:
            likely = likely_encoding(content)
            detail = f"likely {likely}" if likely else error.reason
            bad.add(path, row, "not UTF-8", detail, len(content))
            return None
        return None if bad.has_nul(text, path, row, has_encoding=False) else text

    def _joined(self, value: Any, row: int, bad: BadRecords) -> bytes | None:
        """The texts of a list; None, counted in `bad`, if these are none, or too long."""
        texts = texts_in(value)
        if texts is None:
            bad.add(self._file.path, row, f"the field {self._columns.text!r} is no text")
            return None
        num_bytes = sum(map(len, texts)) + len(texts)
        if num_bytes > bad.max_document_bytes:
            bad.add_too_long(self._file.path, row, num_bytes)
            return None
        return b"\n".join(texts)


def _within(value: Any, inner: str) -> Any:
    return field_of(value, inner) if inner else value


def group_spans(file: SourceFile, group_bytes: Sequence[int], part_bytes: int) -> list[Span]:
    """Spans of consecutive groups of rows of about `part_bytes` together; `group_bytes` are the
    sizes of all groups."""
    spans, start, weight = [], 0, 0
    for number, size in enumerate(group_bytes):
        if number > start and weight + size > part_bytes:
            spans.append(Span(file, start, number, weight))
            start, weight = number, 0
        weight += size
    return [*spans, Span(file, start, max(len(group_bytes), 1), weight)]
