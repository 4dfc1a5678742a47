"""The files that documents lie in between stages: Parquet, a row group for each batch of texts."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.dataset.atomic import open_atomic

_SCHEMA = pa.schema([("text", pa.string()), ("id", pa.string())])


@contextmanager
def documents_file(path: Path) -> Iterator[pq.ParquetWriter]:
    """A writer of documents, whose file appears under `path` when the block ends well."""
    with (
        open_atomic(path) as file,
        pq.ParquetWriter(
            file, _SCHEMA, compression="zstd", compression_level=1, use_dictionary=False
        ) as writer,
    ):
        yield writer


def write_documents(writer: pq.ParquetWriter, texts: Sequence[bytes], ids: Sequence[str]) -> None:
    """Appends a batch of documents as a row group of its own."""
    if texts:
        names = [name.encode("utf-8", "replace") for name in ids]
        columns = [pa.array(c, pa.binary()).cast(pa.string()) for c in (texts, names)]
        writer.write_batch(pa.record_batch(columns, schema=_SCHEMA))


def read_documents(path: Path) -> Iterator[tuple[list[bytes], list[str]]]:
    """The documents of one part, batch by batch: (texts as UTF-8, ids)."""
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, use_threads=False)
            yield table.column("text").cast(pa.binary()).to_pylist(), table.column("id").to_pylist()


def read_texts(
    path: Path, wanted: npt.NDArray[np.bool_] | None = None, batches_at_once: int = 1
) -> Iterator[tuple[int, list[bytes]]]:
    """(number of the first, texts) of the batches of one part in which anything is `wanted`."""
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
    """The ids of some documents of a part, by their numbers."""
    ids = pq.read_table(path, columns=["id"], use_threads=False)["id"]
    return {number: str(ids[number]) for number in numbers}


class Piece(NamedTuple):
    """A file of documents."""

    name: str
    documents: int
    bytes: int


class PieceWriter:
    """The documents of one part, in files of about `max_bytes` of text; at least one."""

    def __init__(self, folder: Path, part_name: str, max_bytes: int) -> None:
        self._folder, self._part_name, self._max_bytes = folder, part_name, max_bytes
        self._open = ExitStack()
        self.written: list[Piece] = []

    def __enter__(self) -> Self:
        self._begin()
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)

    def _begin(self) -> None:
        name = f"{self._part_name}.{len(self.written):04d}"
        self._writer = self._open.enter_context(documents_file(self._folder / f"{name}.parquet"))
        self.written.append(Piece(name, 0, 0))

    def write(self, texts: Sequence[bytes], ids: Sequence[str]) -> None:
        """Appends documents."""
        if self.written[-1].bytes >= self._max_bytes:
            self._open.close()
            self._begin()
        write_documents(self._writer, texts, ids)
        name, documents, num_bytes = self.written[-1]
        self.written[-1] = Piece(name, documents + len(texts), num_bytes + sum(map(len, texts)))
