"""Arrays in many files, read in places by little memory."""

import mmap
import os
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt


def read_part(path: Path, start: int, end: int) -> npt.NDArray[Any]:
    """The numbers [start, end) of the array [N] in a .npy file, read without mapping the file."""
    with open(path, "rb") as file:
        np.lib.format.read_magic(file)
        (length,), _, dtype = np.lib.format.read_array_header_1_0(file)
        assert 0 <= start <= end <= length, (path, start, end, length)
        file.seek(start * dtype.itemsize, os.SEEK_CUR)
        return np.fromfile(file, dtype, end - start)


class _Open(NamedTuple):
    file: BinaryIO
    mapped: mmap.mmap
    array: npt.NDArray[Any]
    offset: int


class MappedArrays:
    """The .npy files of a folder by name, a limited number of them open at a time."""

    def __init__(self, folder: Path, open_files: int, keeps_pages: bool) -> None:
        """`keeps_pages`: pages stay in the memory of this process after `release`, which is faster
        where all files together are small."""
        self._folder, self._open_files, self._keeps_pages = folder, open_files, keeps_pages
        self._open: dict[str, _Open] = {}

    def array(self, name: str) -> npt.NDArray[Any]:
        """The array in the file `name`, mapped into memory; it has at least one element."""
        return self._opened(name).array

    def read(self, name: str, row: int, start: int, end: int) -> npt.NDArray[Any]:
        """[row, start:end] of the array [rows, columns] in the file `name`, read at once; of an
        array [columns], which has the row 0."""
        file, _, array, offset = self._opened(name)
        size = array.itemsize
        first = offset + (row * array.shape[-1] + start) * size
        content = b""
        while len(content) < (end - start) * size:
            more = os.pread(file.fileno(), (end - start) * size - len(content), first)
            assert more, name
            content, first = content + more, first + len(more)
        return np.frombuffer(content, array.dtype)

    def release(self, name: str) -> None:
        """Frees the mapped pages of the file `name`, which the system's page cache still holds."""
        if not self._keeps_pages:
            self._opened(name).mapped.madvise(mmap.MADV_DONTNEED)

    def _opened(self, name: str) -> _Open:
        if name not in self._open:
            if len(self._open) >= self._open_files:
                self._open.pop(next(iter(self._open))).file.close()
            file = open(self._folder / name, "rb")  # noqa: SIM115 (closed above, or at the end)
            mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
            # Single rows are read: without it every page brings its neighbours along.
            mapped.madvise(mmap.MADV_RANDOM)
            np.lib.format.read_magic(file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            offset = file.tell()
            array: npt.NDArray[Any] = np.ndarray(shape, dtype, mapped, offset=offset)
            self._open[name] = _Open(file, mapped, array, offset)
        return self._open[name]
