"""Writes WebDataset shards of rows."""

import hashlib
import io
import json
import tarfile
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
import numpy.typing as npt
import xxhash

from data_prep.dataset.atomic import open_atomic
from data_prep.dataset.manifest import Shard, Split

_TAR_BLOCK_BYTES = 512


class ShardWriter:
    """Writes one shard; the file appears, whole, when the ``with`` block ends without error.

    Equal blocks give equal bytes: the tar headers contain no time, owner or host. After the block,
    `shard` is the entry for the manifest.
    """

    def __init__(
        self, folder: Path, path: str, split: Split, source: str, first_row: int, dtype: str
    ) -> None:
        """`path` is relative to `folder`; `first_row` is the number of the first row in the source.

        `dtype` is the type of the ids on disk.
        """
        self.shard: Shard | None = None
        self._path = path
        self._key = {"split": split, "source": source}
        self._next_row = self._first_row = first_row
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._block_offsets: list[int] = []
        self._block_sums: list[str] = []
        self._bytes = 0
        self._hash = hashlib.sha256()
        self._opened = open_atomic(folder / path)
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        self._file = self._opened.__enter__()
        return self

    def write_block(self, rows: npt.NDArray[np.unsignedinteger]) -> None:
        """Appends one block; `rows` is [rows, row_tokens]."""
        num_rows, _ = rows.shape
        block = np.ascontiguousarray(rows, dtype=self._dtype)
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, np.lib.format.header_data_from_array_1_0(block)
        )
        key = f"{self._key['split']}-{self._key['source']}-{self._next_row:012d}"
        note = {**self._key, "first_row": self._next_row, "rows": num_rows}
        ids = block.tobytes()
        data_at = self._bytes + _TAR_BLOCK_BYTES + header.tell()
        self._write_member(f"{key}.rows.npy", header.getvalue() + ids)
        self._block_offsets.append(data_at)
        self._block_sums.append(xxhash.xxh3_64_hexdigest(ids))
        self._write_member(f"{key}.json", json.dumps(note, sort_keys=True).encode())
        self._next_row += num_rows

    def _write_member(self, name: str, content: bytes) -> None:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        info.mode = 0o644
        padding = -len(content) % _TAR_BLOCK_BYTES
        self._write(info.tobuf(tarfile.USTAR_FORMAT) + content + bytes(padding))

    def _write(self, content: bytes) -> None:
        assert self._file is not None, "use ShardWriter in a 'with' block"
        self._file.write(content)
        self._hash.update(content)
        self._bytes += len(content)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self._write(bytes(2 * _TAR_BLOCK_BYTES))  # the end of a tar file
        self._opened.__exit__(kind, error, traceback)
        if kind is None:
            self.shard = Shard(
                path=self._path,
                bytes=self._bytes,
                sha256=self._hash.hexdigest(),
                rows=self._next_row - self._first_row,
                block_offsets=tuple(self._block_offsets),
                block_xxh3_64="".join(self._block_sums),
            )
