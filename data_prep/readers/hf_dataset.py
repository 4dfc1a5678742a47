"""Folders that Hugging Face ``datasets`` saved: Arrow stream files, read without that library."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import pyarrow as pa

from data_prep.readers.arrow_batches import largest_expanded_bytes
from data_prep.readers.columns import ARROW_ERRORS, Columns, group_spans
from data_prep.readers.compression import is_damage
from data_prep.readers.document import BadRecords, Document
from data_prep.readers.files import SourceFile, Span, head_of, open_file
from data_prep.readers.kinds import HEAD_BYTES
from data_prep.readers.reader import RecordsConfig
from data_prep.readers.signatures import check_format

_MAX_BATCH_BYTES = 1 << 29
"""Of a compressed batch. Those that are not compressed are mapped, not read."""


class HfDatasetReaderConfig(RecordsConfig):
    """Data sets saved by ``Dataset.save_to_disk``, or the cache of ``datasets``.

    `files` are the Arrow files, such as folder/train/*.arrow.
    """

    type: Literal["hf_dataset"]

    def build(self) -> "HfDatasetReader":
        """The reader."""
        return HfDatasetReader(self)


class HfDatasetReader:
    """Reads Arrow stream files; a span is a range of record batches."""

    def __init__(self, config: HfDatasetReaderConfig) -> None:
        self._columns = Columns.of(config)

    def spans(self, file: SourceFile, part_bytes: int) -> list[Span]:
        """Consecutive record batches of about `part_bytes`. A damaged file is one span, and so is a
        file at a URL, since finding its batches means reading all of it."""
        check_format(head_of(file, HEAD_BYTES), file.path, "hf_dataset")
        whole = Span(file, 0, 1 << 62, file.num_bytes)
        if "://" in file.path:
            return [whole]
        try:
            if _largest_batch_bytes(file) > _MAX_BATCH_BYTES:
                return [whole]
            with _opened(file) as batches:
                return group_spans(file, [batch.nbytes for batch in batches], part_bytes)
        except ARROW_ERRORS as error:
            if not is_damage(error):
                raise
            return [whole]

    def read(self, span: Span, bad: BadRecords) -> Iterator[Document]:
        """The documents of the span's record batches."""
        path, row = span.file.path, 0
        try:
            num_bytes = _largest_batch_bytes(span.file)
            if num_bytes > _MAX_BATCH_BYTES:
                bad.add(path, row, "compressed batch too large", f"{num_bytes:,} bytes", num_bytes)
                return
            with _opened(span.file) as batches:
                self._columns.check_schema(batches.schema, path)
                for number, batch in enumerate(batches):
                    if number >= span.end:
                        return
                    if number >= span.start:
                        yield from self._columns.documents_in(batch, row, span.file, bad)
                    row += batch.num_rows
        except ARROW_ERRORS as error:
            if not is_damage(error):
                raise
            bad.add(path, row, "damaged or truncated Arrow file", str(error))


def _largest_batch_bytes(file: SourceFile) -> int:
    """Size of the largest batch that is compressed; 0 for a file at a URL, which would be fetched
    twice."""
    if "://" in file.path:
        return 0
    with open_file(file), pa.memory_map(file.path) as mapped:
        return largest_expanded_bytes(mapped)


@contextmanager
def _opened(file: SourceFile) -> Iterator[pa.RecordBatchReader]:
    with open_file(file) as stream:
        if "://" in file.path:
            yield pa.ipc.open_stream(stream)
        else:
            with pa.memory_map(file.path) as mapped:
                yield pa.ipc.open_stream(mapped)
