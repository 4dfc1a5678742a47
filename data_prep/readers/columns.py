"""Columns of texts and ids in tables, and what the columnar (Arrow) formats share."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from configs.load import UserError
from data_prep.readers.document import BadRecords, Document, decoded
from data_prep.readers.files import SourceFile, Span
from data_prep.readers.metadata import Metadata, metadata_of
from data_prep.readers.reader import RecordsConfig

ARROW_ERRORS = (pa.ArrowException, OSError, EOFError, UnicodeDecodeError)
"""What pyarrow raises for a damaged file; a bare OSError too, see `compression.is_damage`."""


@dataclass(frozen=True)
class Columns:
    """The columns that hold the texts, the records' own ids, and their metadata."""

    text: str
    id: str | None
    metadata: Sequence[str] = ()
    """Columns, or dotted paths into them."""

    @classmethod
    def of(cls, config: RecordsConfig) -> "Columns":
        """The columns that a config names."""
        return cls(config.text_field, config.id_field, config.metadata_fields)

    @property
    def names(self) -> list[str]:
        """The columns to read."""
        own_id = [] if self.id is None else [self.id]
        return list(dict.fromkeys([self.text, *own_id, *self._metadata_columns]))

    @property
    def _metadata_columns(self) -> list[str]:
        return list(dict.fromkeys(field.partition(".")[0] for field in self.metadata))

    def check_names(self, available: Sequence[str], path: str) -> None:
        """Raises UserError unless the file at `path`, with the `available` columns, has these."""
        for name in self.names:
            if name not in available:
                raise UserError(
                    f"{path}: no column {name!r}; it has {', '.join(available)}: set the reader's "
                    "text_field, id_field and metadata_fields"
                )

    def check_schema(self, schema: pa.Schema, path: str) -> None:
        """Raises UserError unless an Arrow file has the columns, with text in the text column."""
        self.check_names(schema.names, path)
        kind = schema.field(self.text).type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise UserError(f"{path}: the column {self.text!r} holds {kind}, not text")

    def documents_in(
        self, batch: pa.RecordBatch, first_row: int, file: SourceFile, bad: BadRecords
    ) -> Iterator[Document]:
        """The documents of a batch that starts at row `first_row` of the file.

        Raises pa.ArrowInvalid if a column is damaged, which Arrow does not check by itself.
        """
        texts = batch.column(self.text)
        kind = pa.large_binary() if pa.types.is_large_string(texts.type) else pa.binary()
        contents = texts.cast(kind)
        contents.validate(full=True)
        ids: list[Any] = [None] * len(texts)
        if self.id is not None:
            batch.column(self.id).validate(full=True)
            ids = batch.column(self.id).to_pylist()
        columns = zip(contents.to_pylist(), ids, self._metadata_in(batch), strict=True)
        for row, (content, own_id, metadata) in enumerate(columns, first_row):
            if content is None:
                bad.add(file.path, row, f"the field {self.text!r} is missing")
                continue
            text = decoded(content, file.path, row, bad)
            if text is not None:
                name = f"{file.name}:{row}" if own_id is None else str(own_id)
                yield Document(text, name, row, metadata)

    def _metadata_in(self, batch: pa.RecordBatch) -> Iterable[Metadata | None]:
        """The metadata of each row of a batch."""
        if not self.metadata:
            return [None] * batch.num_rows
        names = self._metadata_columns
        for name in names:
            batch.column(name).validate(full=True)
        values = zip(*(batch.column(name).to_pylist() for name in names), strict=True)
        return (metadata_of(dict(zip(names, row, strict=True)), self.metadata) for row in values)


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
