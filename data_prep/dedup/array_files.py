"""Arrays in many files, read in places by little memory."""

import mmap
import os
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from data_prep.text.batch import I64

_GAP_BYTES = 4096
"""Reading so much that is not wanted takes about as long as another call."""
_PLACES_AT_ONCE = 2048
"""With gaps between all of them: 8 MB."""


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
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    """Where the numbers start."""


class ArrayFiles:
    """The .npy files of a folder by name, a limited number of them open at a time.

    They are used in the same order again and again: beyond the limit, all but one stay open.
    """

    def __init__(self, folder: Path, open_files: int) -> None:
        self._folder, self._open_files = folder, open_files
        self._open: dict[str, _Open] = {}

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of the array in the file `name`."""
        return self._opened(name).shape

    def mapped(self, name: str) -> npt.NDArray[Any]:
        """The array in the file `name`, mapped into memory until nobody refers to it; it has at
        least one element."""
        file, shape, dtype, offset = self._opened(name)
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        # Single places are read: without it every page brings its neighbours along.
        mapped.madvise(mmap.MADV_RANDOM)
        array: npt.NDArray[Any] = np.ndarray(shape, dtype, mapped, offset=offset)
        return array

    def read(self, name: str, start: int, target: npt.NDArray[Any]) -> None:
        """Reads the numbers of a file from `start` on, its rows in a row, to `target` [n], which
        has the same type."""
        file, _, dtype, offset = self._opened(name)
        assert target.dtype == dtype, name
        at = offset + start * dtype.itemsize
        rest = target.data.cast("B") if len(target) else memoryview(b"")
        while rest:
            count = os.preadv(file.fileno(), [rest], at)
            assert count, name
            rest, at = rest[count:], at + count

    def values(self, name: str, places: I64, width: int = 1) -> npt.NDArray[Any]:
        """Of a file as rows of `width` numbers, those at ascending `places` [n]: [n, width].

        Places that are near one another are read together, with what is between. Mapping the file
        takes three times as long where they are not: a page, and its neighbours, for each.
        """
        file, _, dtype, offset = self._opened(name)
        row_bytes = width * dtype.itemsize
        found = np.empty((len(places), width), dtype)
        for at in range(0, len(places), _PLACES_AT_ONCE):
            some = places[at : at + _PLACES_AT_ONCE]
            cuts = np.flatnonzero(np.diff(some) * row_bytes > _GAP_BYTES) + 1
            firsts, lasts = some[np.append(0, cuts)], some[np.append(cuts, len(some)) - 1]
            lengths = lasts - firsts + 1
            blocks = zip(
                (firsts * row_bytes + offset).tolist(), (lengths * row_bytes).tolist(), strict=True
            )
            content = b"".join([os.pread(file.fileno(), size, start) for start, size in blocks])
            assert len(content) == lengths.sum() * row_bytes, name
            shift = np.cumsum(lengths) - lengths - firsts
            of_block = np.repeat(shift, np.diff(np.concatenate([[0], cuts, [len(some)]])))
            found[at : at + len(some)] = np.frombuffer(content, dtype).reshape(-1, width)[
                some + of_block
            ]
        return found

    def _opened(self, name: str) -> _Open:
        if name not in self._open:
            if len(self._open) >= self._open_files:
                _, last = self._open.popitem()
                last.file.close()
            file = open(self._folder / name, "rb", buffering=0)  # noqa: SIM115 (closed above)
            np.lib.format.read_magic(file)
            shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
            assert not is_fortran, name
            self._open[name] = _Open(file, shape, dtype, file.tell())
        return self._open[name]
