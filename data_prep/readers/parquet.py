"""Parquet files: a column of texts."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from configs.load import Config
from data_prep.readers.columns import check_columns, documents_in
from data_prep.readers.compression import is_damage
from data_prep.readers.document import BadRecords, Document
from data_prep.readers.files import SourceFile, Span, open_file

DAMAGE = (pa.ArrowException, OSError, EOFError, UnicodeDecodeError)
"""What pyarrow raises for a damaged file, a bare OSError among it."""


class ParquetReaderConfig(Config):
    """Parquet files."""

    type: Literal["parquet"]
    files: tuple[str, ...] = Field(min_length=1)
    """Paths, globs or URLs."""
    text_field: str = "text"
    """Column of the texts."""
    id_field: str | None = None
    """Column of the records' own ids; FILE:ROW is used when not given."""

    def build(self) -> "ParquetReader":
        """The reader."""
        return ParquetReader(self)


class ParquetReader:
    """Reads Parquet; a span is a range of row groups."""

    def __init__(self, config: ParquetReaderConfig) -> None:
        self._fields = config.text_field, config.id_field

    def spans(self, file: SourceFile, part_bytes: int) -> list[Span]:
        """Runs of row groups of about `part_bytes`; a damaged file is one span, read as such."""
        try:
            with _opened(file) as parquet:
                sizes = [
                    parquet.metadata.row_group(g).total_byte_size
                    for g in range(parquet.num_row_groups)
                ]
        except DAMAGE as error:
            if not is_damage(error):
                raise
            return [Span(file, 0, 1, file.num_bytes)]
        return grouped(file, sizes, part_bytes)

    def read(self, span: Span, bad: BadRecords) -> Iterator[Document]:
        """The documents of the span's row groups."""
        path, row = span.file.path, 0
        try:
            with _opened(span.file) as parquet:
                check_columns(parquet.schema_arrow, path, *self._fields)
                columns = [name for name in self._fields if name]
                rows = [
                    parquet.metadata.row_group(g).num_rows for g in range(parquet.num_row_groups)
                ]
                row = sum(rows[: span.start])
                groups = range(span.start, min(span.end, len(rows)))
                for batch in parquet.iter_batches(
                    batch_size=1024, row_groups=groups, columns=columns, use_threads=False
                ):
                    yield from documents_in(batch, row, path, span.file.name, self._fields, bad)
                    row += batch.num_rows
        except DAMAGE as error:
            if not is_damage(error):
                raise
            bad.add(path, row, "damaged or truncated Parquet", str(error))


@contextmanager
def _opened(file: SourceFile) -> Iterator[pq.ParquetFile]:
    with open_file(file) as stream, pq.ParquetFile(stream) as parquet:
        yield parquet


def grouped(file: SourceFile, sizes: list[int], part_bytes: int) -> list[Span]:
    """Spans of consecutive groups of about `part_bytes` together."""
    spans, start, weight = [], 0, 0
    for number, size in enumerate(sizes):
        if number > start and weight + size > part_bytes:
            spans.append(Span(file, start, number, weight))
            start, weight = number, 0
        weight += size
    return [*spans, Span(file, start, max(len(sizes), 1), weight)]
