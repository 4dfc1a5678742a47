"""Reads rows by number: their offsets follow from the manifest, so nothing is scanned."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from configs.load import UserError
from data_prep.dataset.manifest import Manifest, Shard, SourceRows, Split

_MAX_OPEN_SHARDS = 256


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
        self._sources = {
            name: _SourceIndex(rows) for name, rows in manifest.splits.get(split, {}).items()
        }
        self._split = split
        self._open: dict[str, npt.NDArray[Any]] = {}

    def read(self, source: str, row_numbers: npt.NDArray[np.integer]) -> npt.NDArray[Any]:
        """The rows `row_numbers` of `source`, in that order: [n, row_tokens], as on disk.

        Raises IndexError for a number outside the source, UserError for an unknown source and for
        a shard that is missing or not of the manifest's size.
        """
        if source not in self._sources:
            known = ", ".join(self._sources) or "none"
            raise UserError(f"{self._folder}: no {self._split} rows of {source!r}; it has: {known}")
        index = self._sources[source]
        numbers = np.asarray(row_numbers, dtype=np.int64)
        rows = np.empty((len(numbers), self._row_tokens), dtype=self._dtype)
        if not len(numbers):
            return rows
        order = np.argsort(numbers, kind="stable")  # shard by shard, each from start to end
        ascending = numbers[order]
        if ascending[0] < 0 or ascending[-1] >= index.rows:
            bad = ascending[0] if ascending[0] < 0 else ascending[-1]
            raise IndexError(f"row {bad} of {source}: its rows are 0 .. {index.rows - 1}")
        bounds = np.searchsorted(ascending, index.shard_first_rows)
        for shard, start, end in zip(index.shards, bounds[:-1], bounds[1:], strict=True):
            if start == end:
                continue
            ids = self._ids(shard)
            starts = index.byte_offsets(ascending[start:end], self._row_bytes) // ids.itemsize
            windows = np.lib.stride_tricks.sliding_window_view(ids, self._row_tokens)
            rows[order[start:end]] = windows[starts]
        return rows

    @property
    def _row_bytes(self) -> int:
        return self._row_tokens * self._dtype.itemsize

    def _ids(self, shard: Shard) -> npt.NDArray[Any]:
        """The whole shard as ids; blocks are aligned, so each starts at a whole element."""
        ids = self._open.pop(shard.path, None)
        if ids is None:
            with self._open_shard(shard) as file:
                size = os.fstat(file.fileno()).st_size
                if size != shard.bytes:
                    raise UserError(
                        f"{self._folder / shard.path}: {size:,} bytes, but {shard.bytes:,} in the "
                        "manifest; the shard is damaged: restore it, or delete it and run data "
                        "preparation again"
                    )
                ids = np.memmap(file, dtype=self._dtype, mode="r")
            if len(self._open) >= _MAX_OPEN_SHARDS:
                del self._open[next(iter(self._open))]
        self._open[shard.path] = ids  # the most recently used one is last
        return ids

    def _open_local(self, shard: Shard) -> BinaryIO:
        path = self._folder / shard.path
        try:
            return open(path, "rb")
        except FileNotFoundError:
            raise UserError(
                f"{path}: missing, but listed in the manifest; restore it, or run data "
                "preparation again"
            ) from None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}


class _SourceIndex:
    """Positions of the rows of one source."""

    def __init__(self, source: SourceRows) -> None:
        self.rows = source.rows
        self.shards = source.shards
        self.block_rows = source.block_rows
        self.shard_first_rows = _cumulative([shard.rows for shard in source.shards])
        self.block_offsets = np.array(
            [offset for shard in source.shards for offset in shard.block_offsets], dtype=np.int64
        )

    def byte_offsets(self, rows: npt.NDArray[np.int64], row_bytes: int) -> npt.NDArray[np.int64]:
        """The byte of its shard at which each of `rows` starts."""
        block, row_in_block = np.divmod(rows, self.block_rows)
        offsets: npt.NDArray[np.int64] = self.block_offsets[block] + row_in_block * row_bytes
        return offsets


def _cumulative(counts: Sequence[int]) -> npt.NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
