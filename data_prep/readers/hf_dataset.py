"""Arrow files, such as those that Hugging Face ``datasets`` saves, read without that library."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import pyarrow as pa

from data_prep.readers.arrow_files import DAMAGED, ArrowFile
from data_prep.readers.columns import ARROW_ERRORS, Columns, group_spans
from data_prep.readers.compression import Damage, is_damage
from data_prep.readers.document import BadRecords, Document
from data_prep.readers.files import SourceFile, Span, head_of, open_file
from data_prep.readers.kinds import HEAD_BYTES
from data_prep.readers.reader import RecordsConfig
from data_prep.readers.signatures import check_format
from data_prep.readers.url_stream import expect

_MAX_BATCH_BYTES = 1 << 29
"""Of a compressed batch. Those that are not compressed are mapped, not read."""


class HfDatasetReaderConfig(RecordsConfig):
    """Arrow files: data sets saved by ``Dataset.save_to_disk``, the cache of ``datasets``, Feather.

    `files` are the Arrow files, such as folder/train/*.arrow, in the stream or the file format.
    """

    type: Literal["hf_dataset"]

    def build(self) -> "HfDatasetReader":
        """The reader."""
        return HfDatasetReader(self)


class HfDatasetReader:
    """Reads Arrow files; a span is a range of record batches."""

    def __init__(self, config: HfDatasetReaderConfig) -> None:
        self._columns = Columns.of(config)

    def spans(self, file: SourceFile, part_bytes: int) -> list[Span]:
        """Consecutive record batches of about `part_bytes`. A damaged file is one span, and so is a
        file at a URL, since finding its batches means reading all of it."""
        check_format(head_of(file, HEAD_BYTES), file.path, "hf_dataset")
        spans = [Span(file, 0, 1 << 62, file.num_bytes)]
        try:
            with _opened(file) as arrow:
                columns = self._columns.in_schema(arrow.schema, file)
                if "://" not in file.path and arrow.largest_expanded_bytes() <= _MAX_BATCH_BYTES:
                    batches = list(map(_num_bytes, arrow.batches()))
                    if None not in batches:
                        sizes = [size for size in batches if size is not None]
                        spans = group_spans(file, sizes, part_bytes)
                columns.check(spans)
        except ARROW_ERRORS as error:
            if not is_damage(error):
                raise
        return spans

    def read(self, span: Span, bad: BadRecords) -> Iterator[Document]:
        """The documents of the span's record batches."""
        path, row = span.file.path, 0
        try:
            with _opened(span.file, is_whole=True) as arrow:
                num_bytes = 0 if "://" in path else arrow.largest_expanded_bytes()
                if num_bytes > _MAX_BATCH_BYTES:
                    detail = f"{num_bytes:,} bytes"
                    bad.add(path, row, "compressed batch too large", detail, num_bytes)
                    return
                columns = self._columns.in_schema(arrow.schema, span.file)
                for number, batch in enumerate(arrow.batches()):
                    if number >= span.end:
                        return
                    if isinstance(batch, Damage):
                        if number >= span.start:
                            batch.count(bad, path, row)
                        continue
                    if number >= span.start and columns.text is None:
                        columns.without_text(row, batch.num_rows, batch.nbytes, bad)
                    elif number >= span.start:
                        row_bytes = batch.nbytes / max(batch.num_rows, 1)
                        yield from columns.documents_in(batch, row, row_bytes, bad)
                    row += batch.num_rows
        except ARROW_ERRORS as error:
            if not is_damage(error):
                raise
            bad.add_cut(path, row, DAMAGED, str(error), span.file.num_bytes)


def _num_bytes(batch: pa.RecordBatch | Damage) -> int | None:
    """Size of a batch; None if it cannot be read."""
    return None if isinstance(batch, Damage) else batch.nbytes


@contextmanager
def _opened(file: SourceFile, is_whole: bool = False) -> Iterator[ArrowFile]:
    """An open file, of which the schema is read, or with `is_whole` all batches."""
    with open_file(file) as stream:
        if "://" in file.path:
            arrow = ArrowFile(stream, file.num_bytes)
            if is_whole:
                expect(stream, (0, file.num_bytes))
            yield arrow
        else:
            with pa.memory_map(file.path) as mapped:
                yield ArrowFile(mapped, file.num_bytes)
