"""Folders that Hugging Face ``datasets`` saved: Arrow stream files, read without that library."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import pyarrow as pa
from pydantic import Field

from configs.load import Config
from data_prep.readers.columns import check_columns, documents_in
from data_prep.readers.compression import is_damage
from data_prep.readers.document import BadRecords, Document
from data_prep.readers.files import SourceFile, Span, open_file
from data_prep.readers.parquet import DAMAGE, grouped


class HfDatasetReaderConfig(Config):
    """Data sets saved by ``Dataset.save_to_disk``, or ``datasets``' cache."""

    type: Literal["hf_dataset"]
    files: tuple[str, ...] = Field(min_length=1)
    """The Arrow files, such as folder/train/*.arrow."""
    text_field: str = "text"
    """Column of the texts."""
    id_field: str | None = None
    """Column of the records' own ids; FILE:ROW is used when not given."""

    def build(self) -> "HfDatasetReader":
        """The reader."""
        return HfDatasetReader(self)


class HfDatasetReader:
    """Reads Arrow stream files; a span is a range of record batches."""

    def __init__(self, config: HfDatasetReaderConfig) -> None:
        self._fields = config.text_field, config.id_field

    def spans(self, file: SourceFile, part_bytes: int) -> list[Span]:
        """Runs of record batches of about `part_bytes`; a damaged file is one span, and so is one
        behind a URL, as only reading it all tells its batches."""
        whole = Span(file, 0, 1 << 62, file.num_bytes)
        if "://" in file.path:
            return [whole]
        try:
            with _opened(file) as batches:
                return grouped(file, [batch.nbytes for batch in batches], part_bytes)
        except DAMAGE as error:
            if not is_damage(error):
                raise
            return [whole]

    def read(self, span: Span, bad: BadRecords) -> Iterator[Document]:
        """The documents of the span's record batches."""
        path, row = span.file.path, 0
        try:
            with _opened(span.file) as batches:
                check_columns(batches.schema, path, *self._fields)
                for number, batch in enumerate(batches):
                    if number >= span.end:
                        return
                    if number >= span.start:
                        yield from documents_in(batch, row, path, span.file.name, self._fields, bad)
                    row += batch.num_rows
        except DAMAGE as error:
            if not is_damage(error):
                raise
            bad.add(path, row, "damaged or truncated Arrow file", str(error))


@contextmanager
def _opened(file: SourceFile) -> Iterator[pa.RecordBatchReader]:
    with open_file(file) as stream:
        if "://" in file.path:
            yield pa.ipc.open_stream(stream)
        else:
            with pa.memory_map(file.path) as mapped:
                yield pa.ipc.open_stream(mapped)
