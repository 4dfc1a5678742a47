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
from data_prep.engine.stage import Part, Record, StageResult

_SCHEMA = pa.schema([("text", pa.string()), ("id", pa.string())])


@contextmanager
def documents_file(path: Path) -> Iterator[pq.ParquetWriter]:
    """A writer of documents, whose file appears as `path` when the block ends without error."""
    with (
        open_atomic(path) as file,
        pq.ParquetWriter(
            file, _SCHEMA, compression="zstd", compression_level=1, use_dictionary=False
        ) as writer,
    ):
        yield writer


def write_documents(writer: pq.ParquetWriter, texts: Sequence[bytes], ids: Sequence[str]) -> None:
    """Appends a batch of documents as its own row group."""
    if texts:
        names = [name.encode("utf-8", "replace") for name in ids]
        columns = [pa.array(c, pa.binary()).cast(pa.string()) for c in (texts, names)]
        writer.write_batch(pa.record_batch(columns, schema=_SCHEMA))


def read_documents(path: Path) -> Iterator[tuple[list[bytes], list[str]]]:
    """The documents of a file, batch by batch: (texts as UTF-8, ids)."""
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, use_threads=False)
            yield table.column("text").cast(pa.binary()).to_pylist(), table.column("id").to_pylist()


def read_texts(
    path: Path, wanted: npt.NDArray[np.bool_] | None = None, batches_at_once: int = 1
) -> Iterator[tuple[int, list[bytes]]]:
    """(number of the first document in the file, texts) of each batch with `wanted` documents.

    `wanted` [D] marks documents of the file, None all of them; up to `batches_at_once` batches are
    read together.
    """
    with pq.ParquetFile(path) as file:
        sizes = [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)]
        firsts = np.append(0, np.cumsum(sizes, dtype=np.int64)).tolist()
        for group in range(0, len(sizes), batches_at_once):
            groups = range(group, min(group + batches_at_once, len(sizes)))
            first, last = firsts[groups.start], firsts[groups.stop]
            if wanted is None or wanted[first:last].any():
                table = file.read_row_groups(list(groups), columns=["text"], use_threads=False)
                yield first, table.column("text").cast(pa.binary()).to_pylist()


def document_ids(path: Path, numbers: Sequence[int]) -> dict[int, str]:
    """The ids of some documents of a file, by their numbers in the file."""
    ids = pq.read_table(path, columns=["id"], use_threads=False)["id"]
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

    def __init__(self, folder: Path, part_name: str, max_bytes: int) -> None:
        self._folder, self._part_name, self._max_bytes = folder, part_name, max_bytes
        self._open = ExitStack()
        self.written: list[Piece] = []

    def __enter__(self) -> Self:
        self._start_piece()
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)

    def _start_piece(self) -> None:
        name = f"{self._part_name}.{len(self.written):04d}"
        self._writer = self._open.enter_context(documents_file(self._folder / f"{name}.parquet"))
        self.written.append(Piece(name, 0, 0))

    def write(self, texts: Sequence[bytes], ids: Sequence[str]) -> None:
        """Appends documents."""
        if self.written[-1].bytes >= self._max_bytes:
            self._open.close()
            self._start_piece()
        write_documents(self._writer, texts, ids)
        name, documents, num_bytes = self.written[-1]
        self.written[-1] = Piece(name, documents + len(texts), num_bytes + sum(map(len, texts)))
