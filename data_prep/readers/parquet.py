"""Parquet files: a column of texts."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import pyarrow.parquet as pq

from data_prep.readers.columns import ARROW_ERRORS, Columns, group_spans
from data_prep.readers.compression import is_damage
from data_prep.readers.document import BadRecords, Document
from data_prep.readers.files import SourceFile, Span, open_file
from data_prep.readers.reader import RecordsConfig

_BATCH_ROWS = 1024


class ParquetReaderConfig(RecordsConfig):
    """Parquet files."""

    type: Literal["parquet"]

    def build(self) -> "ParquetReader":
        """The reader."""
        return ParquetReader(self)


class ParquetReader:
    """Reads Parquet; a span is a range of row groups."""

    def __init__(self, config: ParquetReaderConfig) -> None:
        self._columns = Columns.of(config)

    def spans(self, file: SourceFile, part_bytes: int) -> list[Span]:
        """Consecutive row groups of about `part_bytes`; a damaged file is one span, and reading it
        reports the damage."""
        try:
            with _opened(file) as parquet:
                sizes = [
                    parquet.metadata.row_group(g).total_byte_size
                    for g in range(parquet.num_row_groups)
                ]
        except ARROW_ERRORS as error:
            if not is_damage(error):
                raise
            return [Span(file, 0, 1, file.num_bytes)]
        return group_spans(file, sizes, part_bytes)

    def read(self, span: Span, bad: BadRecords) -> Iterator[Document]:
        """The documents of the span's row groups."""
        path, row = span.file.path, 0
        try:
            with _opened(span.file) as parquet:
                self._columns.check_schema(parquet.schema_arrow, path)
                rows = [
                    parquet.metadata.row_group(g).num_rows for g in range(parquet.num_row_groups)
                ]
                row = sum(rows[: span.start])
                for batch in parquet.iter_batches(
                    batch_size=_BATCH_ROWS,
                    row_groups=range(span.start, min(span.end, len(rows))),
                    columns=self._columns.names,
                    use_threads=False,
                ):
                    yield from self._columns.documents_in(batch, row, span.file, bad)
                    row += batch.num_rows
        except ARROW_ERRORS as error:
            if not is_damage(error):
                raise
            bad.add(path, row, "damaged or truncated Parquet", str(error))


@contextmanager
def _opened(file: SourceFile) -> Iterator[pq.ParquetFile]:
    with open_file(file) as stream, pq.ParquetFile(stream) as parquet:
        yield parquet
