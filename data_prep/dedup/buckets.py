"""Rows of numbers in a temporary file, written in any order and read bucket by bucket."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from data_prep.dedup.array_files import grouped
from data_prep.dedup.scratch_file import ScratchFile
from data_prep.text.batch import I64

BLOCK_ROWS, HELD_ROWS = 1 << 14, 1 << 21
"""Rows of a bucket, and of all of them, that are in memory before they are written."""


class Buckets:
    """Rows of `num_columns` numbers, each row in one of `num_buckets` buckets.

    Up to BLOCK_ROWS rows of each bucket, and HELD_ROWS of all, are in memory, the others in one
    file without a name, which ends with the process or the ``with`` block.
    """

    def __init__(
        self, folder: Path, num_buckets: int, num_columns: int, dtype: npt.DTypeLike
    ) -> None:
        """`folder` is where the file is, if no other is named for temporary files."""
        self._file = ScratchFile(folder)
        self._num_columns, self._dtype = num_columns, np.dtype(dtype)
        self._block_rows = min(BLOCK_ROWS, HELD_ROWS // max(num_buckets, 1) + 1)
        self._held: list[list[npt.NDArray[Any]]] = [[] for _ in range(num_buckets)]
        self._num_held = [0] * num_buckets
        self._blocks: list[list[tuple[int, int]]] = [[] for _ in range(num_buckets)]
        """(place in the file, rows) of the blocks of each bucket."""
        self._end = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, bucket_of: I64, rows: npt.NDArray[Any]) -> None:
        """Adds `rows` [columns, n], each to the bucket whose number `bucket_of` [n] has."""
        for bucket, here in grouped(bucket_of, len(self._held)):
            self._hold(bucket, rows[:, here].astype(self._dtype))

    def read(self, bucket: int) -> Iterator[npt.NDArray[Any]]:
        """The rows of a bucket, [columns, n], some at a time, in the order in which they came."""
        for place, count in self._blocks[bucket]:
            rows = np.empty((self._num_columns, count), self._dtype)
            self._file.read(place, rows)
            yield rows
        yield from list(self._held[bucket])

    def _hold(self, bucket: int, rows: npt.NDArray[Any]) -> None:
        self._held[bucket].append(rows)
        self._num_held[bucket] += rows.shape[1]
        if self._num_held[bucket] >= self._block_rows:
            joined = np.ascontiguousarray(np.concatenate(self._held[bucket], axis=1))
            self._file.write(self._end, joined)
            self._blocks[bucket].append((self._end, joined.shape[1]))
            self._end += joined.nbytes
            self._held[bucket], self._num_held[bucket] = [], 0
