"""Reads rows by number: their offsets follow from the manifest, so nothing is scanned.

A process reads a whole block before its first row of it and compares the block's checksum; after
that it reads single rows. It compares again when the shard's file has changed in any way that the
file system shows. Reading is by ``pread``, so that a file that fails or shrinks is an error.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import xxhash

from configs.load import UserError
from data_prep.dataset.blocks import SUM_BYTES, places
from data_prep.dataset.files import open_inside, read_at, unreadable
from data_prep.dataset.manifest import Manifest, Shard, SourceRows, Split

MAX_OPEN_SHARDS = 256
"""Files that a reader keeps open."""
_CHECK_BYTES = 1 << 20
"""Bytes of a block that are read and hashed at once."""
_ADVICE = (
    "check the disk, restore the shard from a copy, or delete it and run data preparation again; "
    "the same command then resumes from the newest checkpoint"
)

_Int64 = npt.NDArray[np.int64]
_Stamp = tuple[int, ...]


class RowReader:
    """Reads rows of one split by number. Can be pickled and used after a fork."""

    def __init__(
        self,
        folder: str | Path,
        manifest: Manifest,
        split: Split,
        open_shard: Callable[[Shard], BinaryIO] | None = None,
    ) -> None:
        """Opens no shard yet; `verify_shards` checks all of them beforehand.

        `open_shard` opens the file of a shard; by default, the file in `folder`.
        """
        self._folder = Path(folder)
        self._open_shard = open_shard or self._open_local
        self._row_tokens = manifest.row_tokens
        self._dtype = np.dtype(manifest.dtype).newbyteorder("<")
        row_bytes = self._row_tokens * self._dtype.itemsize
        self._sources = {
            name: _SourceIndex(rows, row_bytes)
            for name, rows in manifest.splits.get(split, {}).items()
        }
        self._split = split
        self._open: dict[str, BinaryIO] = {}

    def read(self, source: str, row_numbers: npt.NDArray[np.integer]) -> npt.NDArray[Any]:
        """The rows `row_numbers` of `source`, in that order: [n, row_tokens], as on disk.

        Raises IndexError for a number outside the source, UserError for an unknown source and for
        a shard that is missing, cannot be read, or differs from the manifest in its size or in a
        block that is read.
        """
        if source not in self._sources:
            known = ", ".join(self._sources) or "none"
            raise UserError(f"{self._folder}: no {self._split} rows of {source!r}; it has: {known}")
        index = self._sources[source]
        numbers = np.asarray(row_numbers, dtype=np.int64)
        order = np.argsort(numbers, kind="stable")  # shard by shard, each from start to end
        ascending = numbers[order]
        found = np.empty((len(numbers), self._row_tokens), dtype=self._dtype)  # in that order
        rows = np.empty_like(found)
        if not len(numbers):
            return rows
        if ascending[0] < 0 or ascending[-1] >= index.rows:
            bad = ascending[0] if ascending[0] < 0 else ascending[-1]
            raise IndexError(f"row {bad} of {source}: its rows are 0 .. {index.rows - 1}")
        bounds = np.searchsorted(ascending, index.shard_first_rows)
        for number in np.flatnonzero(bounds[1:] > bounds[:-1]):
            part = slice(bounds[number], bounds[number + 1])
            self._read_shard(index, int(number), ascending[part], found[part])
        rows[order] = found
        return rows

    def _read_shard(
        self, index: "_SourceIndex", number: int, ascending: _Int64, found: npt.NDArray[Any]
    ) -> None:
        """Reads the rows `ascending` of the source, which one shard holds, into `found`."""
        shard = index.shards[number]
        file = self._file(shard)
        path = self._folder / shard.path
        try:
            status = os.fstat(file.fileno())
        except OSError as error:
            raise unreadable(path, 0, error, _ADVICE) from None
        if status.st_size != shard.bytes:
            self._open.pop(shard.path).close()  # so that a restored file is found
            raise UserError(
                f"{path}: {status.st_size:,} bytes, but {shard.bytes:,} in the manifest; the shard "
                f"is damaged: {_ADVICE}"
            )
        stamp = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
        for block in index.unchecked(number, stamp, ascending):
            self._check_block(index, number, int(block), file)
        index.read_rows(number, file, ascending, found.reshape(-1).view(np.uint8).data)

    def _check_block(self, index: "_SourceIndex", number: int, block: int, file: BinaryIO) -> None:
        """Raises UserError if a block of a shard does not have the checksum of the manifest."""
        offset, end = index.block_range(number, block)
        digest = xxhash.xxh3_64()
        buffer = memoryview(bytearray(min(_CHECK_BYTES, end - offset)))
        for start in range(offset, end, _CHECK_BYTES):
            piece = buffer[: min(_CHECK_BYTES, end - start)]
            read_at(file, piece, start, _ADVICE)
            digest.update(piece)
        if digest.digest() != index.block_sum(number, block):
            first = int(index.shard_first_rows[number]) + block * index.block_rows
            last = min(first + index.block_rows, index.rows) - 1
            raise UserError(
                f"{self._folder / index.shards[number].path}: block {block} (rows {first:,} to "
                f"{last:,} of its source, bytes {offset:,} to {end - 1:,}) is damaged: its "
                f"checksum is not the manifest's; {_ADVICE}"
            )
        index.set_checked(number, block)

    def _file(self, shard: Shard) -> BinaryIO:
        file = self._open.pop(shard.path, None)
        if file is None:
            file = self._open_shard(shard)
            if len(self._open) >= MAX_OPEN_SHARDS:
                self._open.pop(next(iter(self._open))).close()
        self._open[shard.path] = file  # the most recently used one is last
        return file

    def _open_local(self, shard: Shard) -> BinaryIO:
        path = self._folder / shard.path
        try:
            return open_inside(self._folder, shard.path)
        except FileNotFoundError:
            raise UserError(
                f"{path}: missing, but listed in the manifest; restore it, or run data "
                "preparation again"
            ) from None
        except OSError as error:
            raise UserError(f"{path}: cannot be opened: {error.strerror}; {_ADVICE}") from None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}


class _SourceIndex:
    """Positions of the rows of one source, and which of its blocks were checked."""

    def __init__(self, source: SourceRows, row_bytes: int) -> None:
        self.rows = source.rows
        self.shards = source.shards
        self.block_rows = source.block_rows
        self.shard_first_rows = _cumulative([shard.rows for shard in source.shards])
        self._checked: dict[int, tuple[_Stamp, npt.NDArray[np.bool_]]] = {}
        self._row_bytes = row_bytes

    def unchecked(self, shard: int, stamp: _Stamp, ascending: _Int64) -> _Int64:
        """The blocks of `shard` that have to be checked before its rows `ascending` are read.

        `stamp` changes with the file of the shard: then all of its blocks are checked again.
        """
        if self.shards[shard].block_xxh3_64 is None:
            return np.empty(0, np.int64)
        known = self._checked.get(shard)
        if known is None or known[0] != stamp:
            none = np.zeros(len(self.shards[shard].block_offsets), bool)
            known = self._checked[shard] = (stamp, none)
        blocks = (ascending - self.shard_first_rows[shard]) // self.block_rows
        return np.unique(blocks[~known[1][blocks]])

    def set_checked(self, shard: int, block: int) -> None:
        """A block of `shard` has the checksum of the manifest."""
        self._checked[shard][1][block] = True

    def block_sum(self, shard: int, block: int) -> bytes:
        """The checksum that a block of `shard` has in the manifest."""
        sums = self.shards[shard].block_xxh3_64
        assert sums is not None
        return sums[SUM_BYTES * block : SUM_BYTES * (block + 1)]

    def block_range(self, shard: int, block: int) -> tuple[int, int]:
        """The bytes [start, end) of `shard` that hold the rows of a block of it."""
        rows = min(self.block_rows, self.shards[shard].rows - block * self.block_rows)
        start = self.shards[shard].block_offsets[block]
        return start, start + rows * self._row_bytes

    def read_rows(self, shard: int, file: BinaryIO, ascending: _Int64, found: memoryview) -> None:
        """Reads the rows `ascending` of `shard` into `found`; neighbours in one call."""
        block, row_in_block = np.divmod(ascending - self.shard_first_rows[shard], self.block_rows)
        starts_of_blocks = places(self.shards[shard].block_offsets, block)
        offsets = starts_of_blocks + row_in_block * self._row_bytes
        firsts = np.flatnonzero(np.diff(offsets, prepend=offsets[0]) != self._row_bytes)
        starts = (firsts * self._row_bytes).tolist()
        ends = [*starts[1:], len(found)]
        descriptor = file.fileno()
        try:
            for offset, start, end in zip(offsets[firsts].tolist(), starts, ends, strict=True):
                if os.preadv(descriptor, (found[start:end],), offset) != end - start:
                    read_at(file, found[start:end], offset, _ADVICE)
        except OSError as error:
            raise unreadable(file.name, offset, error, _ADVICE) from None


def _cumulative(counts: Sequence[int]) -> _Int64:
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
