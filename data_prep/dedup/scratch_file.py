"""Arrays in a temporary file without a name."""

import os
import tempfile
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from data_prep.dedup.array_files import read_numbers
from data_prep.engine.scratch import scratch_folder


class ScratchFile:
    """Arrays in a file that ends with the process or the ``with`` block, however these end."""

    def __init__(self, folder: Path) -> None:
        """`folder` is where the file is, if no other is named for temporary files."""
        self._folder = scratch_folder(folder)
        self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the file."""
        self._file.close()

    def fileno(self) -> int:
        """The file's number in this process."""
        return self._file.fileno()

    def write(self, start: int, array: npt.NDArray[Any]) -> None:
        """Writes an array from byte `start` on. Raises OSError, which names the folder, where its
        disk is full."""
        rest = array.reshape(-1).view(np.uint8).data
        try:
            while rest:
                count = os.pwrite(self.fileno(), rest, start)
                rest, start = rest[count:], start + count
        except OSError as error:
            error.filename = str(self._folder)
            raise

    def read(self, start: int, target: npt.NDArray[Any]) -> None:
        """Fills a contiguous array from byte `start` on."""
        read_numbers(self.fileno(), self._folder, start, target)
