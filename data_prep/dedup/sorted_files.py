"""Arrays in many files, each ascending, read by ranges of hashes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.dedup.hash_ranges import in_range
from data_prep.dedup.limits import DedupLimits
from data_prep.dedup.mapped_arrays import MappedArrays


class SortedFiles:
    """Files of arrays [n] or [rows, n], whose first row is ascending.

    Up to `limits.open_files` of them stay open, so that each is opened once whatever the number of
    ranges. Only the slices that are read are in memory.
    """

    def __init__(self, folder: Path, names: Sequence[str], limits: DedupLimits) -> None:
        self._names = names
        self._files = MappedArrays(folder, limits.open_files, keeps_pages=False)

    def __len__(self) -> int:
        return len(self._names)

    def slice(self, file: int, number: int, num_ranges: int) -> npt.NDArray[Any]:
        """The columns of a file whose hashes are in range `number` of `num_ranges`: [rows, n]."""
        name = self._names[file]
        array = self._files.array(name)
        num_rows = 1 if array.ndim == 1 else len(array)
        here = in_range(array.reshape(num_rows, -1)[0], number, num_ranges)
        self._files.release(name)
        rows = [self._files.read(name, row, here.start, here.stop) for row in range(num_rows)]
        return np.stack(rows)
