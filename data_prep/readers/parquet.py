"""Parquet files: a column of texts."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Literal

import pyarrow.parquet as pq

from configs.load import UserError
from configs.terminal import visible_name
from data_prep.readers.columns import ARROW_ERRORS, ArrowColumns, Columns, group_spans
from data_prep.readers.compression import is_damage
from data_prep.readers.document import BadRecords, Document
from data_prep.readers.files import SourceFile, Span, head_of, open_file
from data_prep.readers.kinds import HEAD_BYTES
from data_prep.readers.parquet_pages import pages_of
from data_prep.readers.reader import RecordsConfig
from data_prep.readers.signatures import check_format
from data_prep.readers.url_stream import expect

_BATCH_ROWS, _BATCH_BYTES = 1024, 1 << 27
_MAX_RATIO = 100
_MAGIC = b"PAR1"
_SIGNATURE_BYTES = 28
"""Of a footer (AES-GCM's nonce and tag)."""
_DAMAGED = "damaged or truncated Parquet"
_TOO_LARGE = "row group with a page larger than max_document_mb times eight"


class ParquetReaderConfig(RecordsConfig):
    """Parquet files; the text is a column of strings, of binary in UTF-8, or of lists of these."""

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
            with _opened(file) as (_, parquet):
                sizes = [
                    parquet.metadata.row_group(g).total_byte_size
                    for g in range(parquet.num_row_groups)
                ]
                spans = group_spans(file, sizes, part_bytes)
                self._columns.in_schema(parquet.schema_arrow, file).check(spans)
                return spans
        except ARROW_ERRORS as error:
            if not is_damage(error):
                raise
            return [Span(file, 0, 1, file.num_bytes)]

    def read(self, span: Span, bad: BadRecords) -> Iterator[Document]:
        """The documents of the span's row groups."""
        try:
            with _opened(span.file) as (stream, parquet):
                file = _ParquetFile(parquet, stream, span.file)
                columns = self._columns.in_schema(parquet.schema_arrow, span.file)
                groups = range(span.start, min(span.end, parquet.num_row_groups))
                file.expect(groups, columns)
                for group in groups:
                    yield from file.documents(group, columns, bad)
        except ARROW_ERRORS as error:
            if not is_damage(error):
                raise
            _count_without_footer(span.file, str(error), bad)


class _ParquetFile:
    """An open file whose footer is intact."""

    def __init__(self, parquet: pq.ParquetFile, stream: BinaryIO, file: SourceFile) -> None:
        self._parquet, self._stream, self._file = parquet, stream, file
        self._num_rows = [
            parquet.metadata.row_group(g).num_rows for g in range(parquet.num_row_groups)
        ]

    def expect(self, groups: range, columns: ArrowColumns) -> None:
        """Says of a file at a URL that these columns of the row groups will be read in turn."""
        if "://" not in self._file.path:
            return
        ranges = []
        for group in groups:
            for column in self._chunks(group, columns):
                starts = (column.dictionary_page_offset, column.data_page_offset)
                start = min((start for start in starts if start), default=0)
                ranges.append((start, start + column.total_compressed_size))
        expect(self._stream, *ranges)

    def _chunks(self, group: int, columns: ArrowColumns) -> list[Any]:
        """pyarrow's `ColumnChunkMetaData` of the columns to read, of one row group."""
        prefixes = [f"{path.parquet_prefix}." for path in columns.paths]
        row_group = self._parquet.metadata.row_group(group)
        chunks = [row_group.column(number) for number in range(row_group.num_columns)]
        return [c for c in chunks if any(f"{c.path_in_schema}.".startswith(p) for p in prefixes)]

    def documents(self, group: int, columns: ArrowColumns, bad: BadRecords) -> Iterator[Document]:
        """The documents of a row group; what cannot be read of it is counted."""
        first_row, num_rows = sum(self._num_rows[:group]), self._num_rows[group]
        stored = self._stored_bytes(group)
        if columns.text is None:
            columns.without_text(first_row, num_rows, stored, bad)
            return
        row, end, row_bytes = first_row, first_row + num_rows, stored / max(num_rows, 1)
        try:
            page_bytes = self._largest_page_bytes(group, columns)
            if page_bytes > bad.max_raw_bytes:
                bad.add(self._file.path, row, _TOO_LARGE, f"{page_bytes:,} bytes", page_bytes)
                return
            for batch in self._parquet.iter_batches(
                batch_size=min(max(_BATCH_BYTES // max(page_bytes, 1), 1), _BATCH_ROWS),
                row_groups=[group],
                columns=[path.parquet_prefix for path in columns.paths],
                use_threads=False,
            ):
                yield from columns.documents_in(batch, row, row_bytes, bad)
                row += batch.num_rows
        except ARROW_ERRORS as error:
            if not is_damage(error):
                raise
            lost = round((end - row) * row_bytes)
            bad.add_damage(self._file.path, row, _DAMAGED, str(error), lost)

    def _stored_bytes(self, group: int) -> int:
        """Size of a row group in the file."""
        columns = self._parquet.metadata.row_group(group)
        stored: int = sum(
            columns.column(number).total_compressed_size for number in range(columns.num_columns)
        )
        return min(max(stored, 0), self._file.num_bytes)

    def _largest_page_bytes(self, group: int, columns: ArrowColumns) -> int:
        """Decompressed size of the largest page of a row group that is read: no text is longer.

        Of a file at a URL, whose pages would be fetched twice, the size of a whole column if that
        is compressed more than any text.
        """
        largest = 0
        for column in self._chunks(group, columns):
            if "://" not in self._file.path:
                pages = pages_of(self._stream, column)
                largest = max([largest, *(page.expanded for page in pages)])
            elif column.total_uncompressed_size > _MAX_RATIO * column.total_compressed_size:
                largest = max(largest, column.total_uncompressed_size)
        return largest


def _count_without_footer(file: SourceFile, detail: str, bad: BadRecords) -> None:
    """Counts a file of which nothing can be read: what is where in it stands at its end."""
    with open_file(file) as stream:
        stream.seek(max(0, file.num_bytes - len(_MAGIC)))
        is_cut = stream.read() != _MAGIC
    add = bad.add_cut if is_cut else bad.add_damage
    add(file.path, 0, _DAMAGED, detail, file.num_bytes)


def _check_not_encrypted(stream: BinaryIO, parquet: pq.ParquetFile, file: SourceFile) -> None:
    """Raises UserError if columns may be encrypted: asked for such a column, Arrow (24) ends the
    process. The footer is signed then, and its signature is not part of the metadata."""
    stream.seek(file.num_bytes - len(_MAGIC) - 4)
    footer_bytes = int.from_bytes(stream.read(4), "little")
    if footer_bytes - parquet.metadata.serialized_size == _SIGNATURE_BYTES:
        raise UserError(
            f"{visible_name(file.path)}: is an encrypted Parquet file, with a footer that is not; "
            "decrypt it, or leave it out of `files`"
        )


@contextmanager
def _opened(file: SourceFile) -> Iterator[tuple[BinaryIO, pq.ParquetFile]]:
    """The stream of a file, and what reads from it."""
    with open_file(file) as stream, pq.ParquetFile(stream) as parquet:
        _check_not_encrypted(stream, parquet, file)
        schema = parquet.metadata.schema
        columns = [schema.column(number) for number in range(parquet.metadata.num_columns)]
        lists = [
            column.path
            for column in columns
            if column.max_repetition_level and column.physical_type == "BYTE_ARRAY"
        ]
        if not lists:
            yield stream, parquet
            return
        # A list may repeat a large value of a dictionary any number of times.
        stream.seek(0)
        with pq.ParquetFile(stream, read_dictionary=lists) as with_dictionaries:
            yield stream, with_dictionaries
