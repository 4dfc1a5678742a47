"""Arrays in many files, read in places by little memory."""

import io
import math
import mmap
import os
import resource
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from data_prep.kernels.compiled import Numbers
from data_prep.kernels.files import bounds_in_file, read_rows
from data_prep.kernels.joins import by_window, gather
from data_prep.text.batch import I64, U64

_HEADER_BYTES = 256
"""More than a header has."""
_SHARE_OF_OPEN_FILES = 3
"""Of the files that a process may open, those of a folder are at most one in so many."""


def read_part(path: Path, start: int, end: int) -> npt.NDArray[Any]:
    """The numbers [start, end) of the array [N] in a .npy file, read without mapping the file."""
    with open(path, "rb", buffering=0) as file:
        (length,), dtype, offset = _described(file)
        assert 0 <= start <= end <= length, (path, start, end, length)
        found = np.empty(end - start, dtype)
        read_numbers(file.fileno(), path, offset + start * dtype.itemsize, found)
    return found


def read_numbers(file: int, path: Path, start: int, target: npt.NDArray[Any]) -> None:
    """Fills `target`, which is contiguous, from byte `start` on of an open file.

    Raises OSError, or EOFError where the file ends before; both name `path`.
    """
    assert target.flags.c_contiguous, path
    rest = target.reshape(-1).view(np.uint8).data
    while rest:
        try:
            count = os.preadv(file, [rest], start)
        except OSError as error:
            error.filename = str(path)
            raise
        if not count:
            raise EOFError(f"{path}: ends early, at byte {start:,}")
        rest, start = rest[count:], start + count


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
        """At most `open_files` are open, fewer where the process may not open many."""
        allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if allowed != resource.RLIM_INFINITY:
            open_files = min(open_files, max(allowed // _SHARE_OF_OPEN_FILES, 1))
        self._folder, self._open_files = folder, open_files
        self._open: dict[str, _Open] = {}

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of the array in the file `name`."""
        return self._opened(name).shape

    def mapped(self, name: str) -> npt.NDArray[Any]:
        """The array in the file `name`, mapped into memory until nobody refers to it; it has at
        least one element."""
        mapped, array = _map(self._opened(name))
        # Single places are read: without it every page brings its neighbours along.
        mapped.madvise(mmap.MADV_RANDOM)
        return array

    def read(self, name: str, start: int, target: npt.NDArray[Any]) -> None:
        """Reads the numbers of a file from `start` on, its rows in a row, to `target` [n], which
        has the same type."""
        file, _, dtype, offset = self._opened(name)
        assert target.dtype == dtype, name
        at = offset + start * dtype.itemsize
        read_numbers(file.fileno(), self._folder / name, at, target)

    def read_rows(self, name: str, places: I64, targets: I64, rows: U64) -> None:
        """Of a file as rows of as many 64-bit numbers as `rows` [N, width] has, reads those at
        ascending `places` [n] to the `targets` [n] in `rows`.

        Rows that are near one another are read together, with what is between.
        """
        file, _, dtype, offset = self._opened(name)
        assert rows.dtype == dtype, name
        width = rows.shape[1]
        starts = offset + places * rows.itemsize * width
        flat, done = rows.reshape(-1), 0
        while True:
            done += read_rows(file.fileno(), starts[done:], targets[done:], width, flat)
            if done == len(places):
                return
            # A signal has interrupted it, or this says what is wrong.
            read_numbers(file.fileno(), self._folder / name, int(starts[done]), rows[targets[done]])
            done += 1

    def bounds(self, name: str, start: int, length: int, edges: U64) -> I64:
        """Where keys from each of the ascending `edges` on start among `length` ascending keys of a
        file, its rows in a row, from `start` on: [edges], counted from there."""
        file, _, dtype, offset = self._opened(name)
        assert edges.dtype == dtype, name
        found = bounds_in_file(file.fileno(), offset + 8 * start, length, edges)
        if len(found) < len(edges):  # a signal has interrupted it, or reading says what is wrong
            keys = np.empty(length, dtype)
            self.read(name, start, keys)
            found = np.searchsorted(keys, edges)
        return found

    def _opened(self, name: str) -> _Open:
        if name not in self._open:
            if len(self._open) >= self._open_files:
                _, last = self._open.popitem()
                last.file.close()
            file = open(self._folder / name, "rb", buffering=0)  # noqa: SIM115 (closed above)
            self._open[name] = _Open(file, *_described(file))
        return self._open[name]


class WindowedArray:
    """The array [N] in a .npy file, read in places, a window of the file in memory at a time.

    The pages of a window are mapped and given back, and stay in the cache of the system. For each
    place that takes a fraction of a call, also where every place is on a page of its own.
    """

    def __init__(self, path: Path, window_bytes: int) -> None:
        """The bytes of a window are a power of two, at least a page of memory."""
        assert window_bytes & window_bytes - 1 == 0, window_bytes
        with open(path, "rb", buffering=0) as file:
            opened = _Open(file, *_described(file))
            self._mapped, self._array = _map(opened)
        self._offset, self._window_bytes = opened.offset, window_bytes

    def at(self, places: Numbers) -> npt.NDArray[Any]:
        """The numbers at `places`, which are in any order, in the shape of these."""
        num_bytes = len(self._mapped)
        if num_bytes <= self._window_bytes:
            return np.asarray(self._array[places])
        if places.ndim > 1:
            return self.at(places.reshape(-1)).reshape(places.shape)
        layout = (self._array.itemsize, self._offset, self._window_bytes.bit_length() - 1)
        num_windows = num_bytes // self._window_bytes + 1
        ordered, positions, starts = by_window(places.astype(np.int64), *layout, num_windows)
        found = np.empty(len(places), self._array.dtype)
        for window, (start, end) in enumerate(pairwise(starts.tolist())):
            if start < end:
                gather(self._array, ordered[start:end], positions[start:end], found)
                at = window * self._window_bytes
                size = min(self._window_bytes, num_bytes - at)
                self._mapped.madvise(mmap.MADV_DONTNEED, at, size)
        return found


def grouped(numbers: I64, highest: int) -> Iterator[tuple[int, I64]]:
    """Each of the `numbers` [n], from 0 to `highest`, with its places; both ascend."""
    narrow = np.min_scalar_type(highest)  # numpy sorts 16 bits by their digits
    order = np.argsort(numbers.astype(narrow), kind="stable")
    ascending = numbers[order]
    starts = np.flatnonzero(np.append(True, ascending[1:] != ascending[:-1])[: len(order)])
    for start, end in pairwise([*starts.tolist(), len(order)]):
        yield int(ascending[start]), order[start:end]


def _map(opened: _Open) -> tuple[mmap.mmap, npt.NDArray[Any]]:
    """A file mapped into memory, and the array in it."""
    file, shape, dtype, offset = opened
    mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    if len(mapped) < offset + math.prod(shape) * dtype.itemsize:
        raise EOFError(f"{file.name}: ends early, at byte {len(mapped):,}")
    return mapped, np.ndarray(shape, dtype, mapped, offset=offset)


def _described(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """(shape, type, where the numbers start) of the array in a .npy file."""
    start = os.pread(file.fileno(), _HEADER_BYTES, 0)
    try:
        return _parsed(start[: 10 + int.from_bytes(start[8:10], "little")])
    except ValueError as error:
        raise ValueError(f"{file.name}: {error}") from None


@lru_cache(maxsize=4096)  # the same files are opened again and again
def _parsed(header: bytes) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """The same of its header; numpy takes longer for that than the system for opening the file."""
    file = io.BytesIO(header)
    np.lib.format.read_magic(file)
    shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
    assert not is_fortran, header
    return shape, dtype, len(header)
