"""The documents between stages: Parquet files, with a row group for each batch of texts."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.dataset.atomic import open_atomic
from data_prep.engine.costs import count_open
from data_prep.engine.stage import Part, Record, StageResult

_SCHEMA = pa.schema([("text", pa.string()), ("id", pa.string())])
_METADATA = pa.field("metadata", pa.string())
"""Of sources with `metadata_fields`: a JSON object for each document."""
_WITH_METADATA = _SCHEMA.append(_METADATA)


class StoredDocuments(NamedTuple):
    """A batch of documents."""

    texts: Sequence[bytes]
    """As UTF-8."""
    ids: Sequence[str]
    metadata: Sequence[bytes] | None = None
    """JSON objects; None in files without metadata."""

    def only(self, numbers: Sequence[int], texts: Sequence[bytes]) -> "StoredDocuments":
        """Some of the documents, by their numbers, with new texts for all of the batch."""
        metadata = self.metadata
        return StoredDocuments(
            [texts[k] for k in numbers],
            [self.ids[k] for k in numbers],
            None if metadata is None else [metadata[k] for k in numbers],
        )


@contextmanager
def documents_file(path: Path, has_metadata: bool = False) -> Iterator[pq.ParquetWriter]:
    """A writer of documents, whose file appears as `path` when the block ends without error."""
    with (
        open_atomic(path) as file,
        pq.ParquetWriter(
            file,
            _WITH_METADATA if has_metadata else _SCHEMA,
            compression="zstd",
            compression_level=1,
            use_dictionary=False,
        ) as writer,
    ):
        yield writer


def write_documents(writer: pq.ParquetWriter, documents: StoredDocuments) -> None:
    """Appends a batch of documents as its own row group."""
    texts, ids, metadata = documents
    if texts:
        contents = [texts, [name.encode("utf-8", "replace") for name in ids]]
        contents += [] if metadata is None else [metadata]
        columns = [pa.array(content, pa.binary()).cast(pa.string()) for content in contents]
        schema = _SCHEMA if metadata is None else _WITH_METADATA
        writer.write_batch(pa.record_batch(columns, schema=schema))


def has_metadata(path: Path) -> bool:
    """Whether a file of documents has metadata."""
    count_open()
    return _METADATA.name in pq.read_schema(path).names


def read_documents(path: Path) -> Iterator[StoredDocuments]:
    """The documents of a file, batch by batch."""
    count_open()
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, use_threads=False)
            metadata = None
            if _METADATA.name in table.column_names:
                metadata = table.column(_METADATA.name).cast(pa.binary()).to_pylist()
            texts = table.column("text").cast(pa.binary()).to_pylist()
            yield StoredDocuments(texts, table.column("id").to_pylist(), metadata)


def read_texts(
    path: Path, wanted: npt.NDArray[np.bool_] | None = None, batches_at_once: int = 1
) -> Iterator[tuple[int, list[bytes]]]:
    """(number of the first document in the file, texts) of each batch with `wanted` documents.

    `wanted` [D] marks documents of the file, None all of them; up to `batches_at_once` batches are
    read together.
    """
    count_open()
    with pq.ParquetFile(path) as file:
        sizes = [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)]
        firsts = np.append(0, np.cumsum(sizes, dtype=np.int64)).tolist()
        for group in range(0, len(sizes), batches_at_once):
            groups = range(group, min(group + batches_at_once, len(sizes)))
            first, last = firsts[groups.start], firsts[groups.stop]
            if wanted is None or wanted[first:last].any():
                table = file.read_row_groups(list(groups), columns=["text"], use_threads=False)
                yield first, table.column("text").cast(pa.binary()).to_pylist()


def all_ids(path: Path) -> pa.ChunkedArray:
    """The ids of all documents of a file, strings."""
    return read_table(path, ["id"])["id"]


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """A Parquet file, or columns of it.

    `pq.read_table` would import pyarrow.dataset, and that pandas, where it is installed: half a
    second and 35 MB.
    """
    count_open()
    with pq.ParquetFile(path) as file:
        return file.read(columns, use_threads=False)


def document_ids(path: Path, numbers: Sequence[int]) -> dict[int, str]:
    """The ids of some documents of a file, by their numbers in the file."""
    ids = all_ids(path)
    return {number: str(ids[number]) for number in numbers}


@dataclass(frozen=True, kw_only=True)
class DocumentFile(Part):
    """A file of documents of one source; `num_bytes` counts their text. A part of many stages.

    Its facts follow from the stages before, so that a plan holds only its name.
    """

    source: str
    num_documents: int
    first: int
    """Number of its first document, among all documents of the run."""
    content: str
    """Hash of the file."""


@dataclass(frozen=True)
class Documents:
    """All documents of a run, as one stage left them, in their order."""

    folder: Path
    files: Sequence[DocumentFile]
    stage: str
    """Name of the stage."""
    content_fingerprint: str
    """Of the stage's result."""

    def path(self, name: str) -> Path:
        """The path of a file of documents."""
        return self.folder / f"{name}.parquet"


def documents_in(stage: str, result: StageResult[Any], records: Iterable[Record]) -> Documents:
    """The documents that `stage` wrote; `records` has for each file its name, source, documents and
    bytes, and the outputs of its part."""
    files = []
    first = 0
    for record in records:
        files.append(
            DocumentFile(
                name=record["name"],
                num_bytes=record["bytes"],
                source=record["source"],
                num_documents=record["documents"],
                first=first,
                content=record["outputs"][f"{record['name']}.parquet"]["xxh3_128"],
            )
        )
        first += record["documents"]
    return Documents(result.folder, files, stage, result.content_fingerprint)


class Piece(NamedTuple):
    """A file that `PieceWriter` wrote."""

    name: str
    documents: int
    bytes: int


class PieceWriter:
    """Writes the documents of one part to files of about `max_bytes` of text; at least one."""

    def __init__(
        self, folder: Path, part_name: str, max_bytes: int, has_metadata: bool = False
    ) -> None:
        self._folder, self._part_name, self._max_bytes = folder, part_name, max_bytes
        self._has_metadata = has_metadata
        self._open = ExitStack()
        self.written: list[Piece] = []

    def __enter__(self) -> Self:
        self._start_piece()
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)

    def _start_piece(self) -> None:
        name = f"{self._part_name}.{len(self.written):04d}"
        path = self._folder / f"{name}.parquet"
        self._writer = self._open.enter_context(documents_file(path, self._has_metadata))
        self.written.append(Piece(name, 0, 0))

    def write(self, stored: StoredDocuments) -> None:
        """Appends documents."""
        if self.written[-1].bytes >= self._max_bytes:
            self._open.close()
            self._start_piece()
        write_documents(self._writer, stored)
        name, documents, num_bytes = self.written[-1]
        num_bytes += sum(map(len, stored.texts))
        self.written[-1] = Piece(name, documents + len(stored.texts), num_bytes)
