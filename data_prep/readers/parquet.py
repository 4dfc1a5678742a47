"""Parquet files: a column of texts."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, Literal

import pyarrow.parquet as pq

from data_prep.readers.columns import ARROW_ERRORS, Columns, group_spans
from data_prep.readers.compression import is_damage
from data_prep.readers.document import BadRecords, Document
from data_prep.readers.files import SourceFile, Span, head_of, open_file
from data_prep.readers.kinds import HEAD_BYTES
from data_prep.readers.parquet_pages import pages_of
from data_prep.readers.reader import RecordsConfig
from data_prep.readers.signatures import check_format

_BATCH_ROWS, _BATCH_BYTES = 1024, 1 << 27
_MAX_RATIO = 100
_TOO_LARGE = "row group with a page larger than max_document_mb times eight"


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
        check_format(head_of(file, HEAD_BYTES), file.path, "parquet")
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
            with open_file(span.file) as stream, _opened(span.file) as parquet:
                self._columns.check_schema(parquet.schema_arrow, path)
                rows = [
                    parquet.metadata.row_group(g).num_rows for g in range(parquet.num_row_groups)
                ]
                row = sum(rows[: span.start])
                for group in range(span.start, min(span.end, len(rows))):
                    num_bytes = self._largest_page_bytes(parquet, group, stream, span.file)
                    if num_bytes > bad.max_raw_bytes:
                        bad.add(path, row, _TOO_LARGE, f"{num_bytes:,} bytes", num_bytes)
                        row += rows[group]
                        continue
                    for batch in parquet.iter_batches(
                        batch_size=min(max(_BATCH_BYTES // max(num_bytes, 1), 1), _BATCH_ROWS),
                        row_groups=[group],
                        columns=self._columns.names,
                        use_threads=False,
                    ):
                        yield from self._columns.documents_in(batch, row, span.file, bad)
                        row += batch.num_rows
        except ARROW_ERRORS as error:
            if not is_damage(error):
                raise
            bad.add(path, row, "damaged or truncated Parquet", str(error))

    def _largest_page_bytes(
        self, parquet: pq.ParquetFile, group: int, stream: BinaryIO, file: SourceFile
    ) -> int:
        """Decompressed size of the largest page of a row group that is read: no text is longer.

        Of a file at a URL, whose pages would be fetched twice, the size of a whole column if that
        is compressed more than any text.
        """
        columns = parquet.metadata.row_group(group)
        largest = 0
        for number in range(columns.num_columns):
            column = columns.column(number)
            if column.path_in_schema.partition(".")[0] not in self._columns.names:
                continue
            if "://" not in file.path:
                largest = max([largest, *(page.expanded for page in pages_of(stream, column))])
            elif column.total_uncompressed_size > _MAX_RATIO * column.total_compressed_size:
                largest = max(largest, column.total_uncompressed_size)
        return largest


@contextmanager
def _opened(file: SourceFile) -> Iterator[pq.ParquetFile]:
    with open_file(file) as stream, pq.ParquetFile(stream) as parquet:
        yield parquet
