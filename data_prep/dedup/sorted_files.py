"""Arrays in many files, each ascending, read by ranges of hashes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_prep.dedup.array_files import ArrayFiles
from data_prep.dedup.hash_ranges import in_range
from data_prep.dedup.limits import DedupLimits
from data_prep.text.batch import U64


class SortedFiles:
    """Files of arrays [n] or [rows, n], whose first row is ascending.

    Up to `limits.open_files` of them stay open, so that each is opened once whatever the number of
    ranges. Only the slices that are read are in memory.
    """

    def __init__(self, folder: Path, names: Sequence[str], limits: DedupLimits) -> None:
        self._names = names
        self._files = ArrayFiles(folder, limits.open_files)

    def __len__(self) -> int:
        return len(self._names)

    def slice(self, file: int, number: int, num_ranges: int) -> U64:
        """The columns of a file whose hashes are in range `number` of `num_ranges`: [rows, n]."""
        name = self._names[file]
        shape = self._files.shape(name)
        num_rows, length = (1, *shape)[-2:]
        if not length:
            return np.empty((num_rows, 0), np.uint64)
        here = in_range(self._files.mapped(name).reshape(num_rows, length)[0], number, num_ranges)
        found = np.empty((num_rows, here.stop - here.start), np.uint64)
        for row in range(num_rows):
            self._files.read(name, row * length + here.start, found[row])
        return found
