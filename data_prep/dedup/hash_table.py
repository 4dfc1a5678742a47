"""Sets of 64-bit hashes on disk, each hash with an optional value, looked up without a full read.

A table is cut to equal ranges of hashes, a power of two of them, each written by itself. A range
is a few files: ``NAME.0.u64`` holds its hashes, ascending, ``NAME.1.u64`` the value of each where
there are values, and ``NAME.slots.u64`` a bit for each prefix of a hash in the range: whether any
hash has it, so that most hashes that are not in the table need no search.
"""

import mmap
import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_prep.dataset.atomic import open_atomic
from data_prep.dedup.array_files import grouped
from data_prep.kernels.slots import marked
from data_prep.text.batch import I64, U64

SLOTS_PER_HASH = 8
"""At least, and less than twice as many, up to the highest number of slots."""
MAX_SLOT_BITS = 30
_MIN_SLOT_BITS = 6
"""A number of the file."""
WINDOW_BYTES = 1 << 26
"""Bytes of a table whose pages a process has at a time, about."""
_CACHE_BYTES = 1 << 23


def write_hash_table(
    folder: Path,
    name: str,
    pieces: Iterable[U64],
    num_columns: int,
    expected: int,
    num_ranges: int = 1,
    max_slot_bits: int = MAX_SLOT_BITS,
) -> tuple[int, list[str]]:
    """Writes one of `num_ranges` ranges of a table; returns its number of hashes and the names of
    its files.

    `pieces` are [columns, n] each, the hashes ascending from piece to piece, about `expected` of
    them together. There are up to 2^`max_slot_bits` slots, of a bit, which are in memory.
    """
    bits = max(min((expected * SLOTS_PER_HASH).bit_length(), max_slot_bits), _MIN_SLOT_BITS)
    slots = np.zeros(1 << bits >> 3, dtype=np.uint8)
    names = [f"{name}.{column}.u64" for column in range(num_columns)]
    length = 0
    with ExitStack() as open_files:
        files = [open_files.enter_context(open_atomic(folder / n)) for n in names]
        for piece in pieces:
            _mark(slots, _slots_of(piece[0], _bits_of(num_ranges), bits))
            for file, column in zip(files, piece, strict=True):
                file.write(np.ascontiguousarray(column).data)
            length += piece.shape[1]
    with open_atomic(folder / f"{name}.slots.u64") as file:
        file.write(slots.data)
    return length, [*names, f"{name}.slots.u64"]


class HashTable:
    """A table whose ranges `write_hash_table` wrote.

    It is mapped into memory, about `window_bytes` at a time if it has more. What the system keeps
    of its files in memory is shared by all processes of a machine.
    """

    def __init__(
        self, folder: Path, names: Sequence[str], window_bytes: int = WINDOW_BYTES
    ) -> None:
        """`names` are those of all ranges, ascending."""
        range_bits = _bits_of(len(names))
        self._ranges = [_Range(folder, name, range_bits) for name in names]
        most_bytes = max(part.num_bytes for part in self._ranges)
        self._bits_in_range = (-(-most_bytes // window_bytes) - 1).bit_length()
        """Of the number of a window, those that follow the number of its range."""
        self._window_bits = range_bits + self._bits_in_range

    def find(self, hashes: U64) -> tuple[I64, U64]:
        """(positions of those `hashes` that are in the table, ascending; the value of each, 0 in a
        table without values)."""
        if self._window_bits:
            positions, values = self._by_windows(hashes)
        else:
            positions, values = self._ranges[0].find(hashes)
        order = np.argsort(positions)
        return positions[order], values[order]

    def _by_windows(self, hashes: U64) -> tuple[I64, U64]:
        positions, values = [np.empty(0, np.int64)], [np.empty(0, np.uint64)]
        windows = (hashes >> np.uint64(64 - self._window_bits)).view(np.int64)
        for window, here in grouped(windows, (1 << self._window_bits) - 1):
            part = self._ranges[window >> self._bits_in_range]
            found, of_found = part.find(hashes[here])
            positions.append(here[found])
            values.append(of_found)
            part.unmap_pages()
        return np.concatenate(positions), np.concatenate(values)


class _Range:
    """One of 2^`range_bits` equal ranges of a table, mapped into memory."""

    def __init__(self, folder: Path, name: str, range_bits: int) -> None:
        self._range_bits = range_bits
        self._maps: list[mmap.mmap] = []
        self._hashes = self._map(folder / f"{name}.0.u64")
        values = folder / f"{name}.1.u64"
        self._values = self._map(values) if values.exists() else None
        self._slots: npt.NDArray[np.uint8] = self._map(folder / f"{name}.slots.u64").view(np.uint8)

    @property
    def num_bytes(self) -> int:
        """Of what is looked up: the values are read of hashes that are found."""
        return self._hashes.nbytes + self._slots.nbytes

    def find(self, hashes: U64) -> tuple[I64, U64]:
        """The same of hashes in this range, in any order."""
        bits = (8 * len(self._slots)).bit_length() - 1
        maybe = marked(hashes, self._slots, np.uint64(self._range_bits), np.uint64(64 - bits))
        if not len(maybe):
            return maybe, np.empty(0, np.uint64)
        wanted = hashes[maybe]
        if self._hashes.nbytes > _CACHE_BYTES:  # near places one after another
            order = np.argsort(wanted)
            maybe, wanted = maybe[order], wanted[order]
        places = np.minimum(np.searchsorted(self._hashes, wanted), len(self._hashes) - 1)
        found = self._hashes[places] == wanted
        positions = maybe[found]
        if self._values is None:
            return positions, np.zeros(len(positions), np.uint64)
        return positions, self._values[places[found]]

    def unmap_pages(self) -> None:
        """Gives back the pages that were read: they count as memory of the process, too."""
        for mapped in self._maps:
            mapped.madvise(mmap.MADV_DONTNEED)

    def _map(self, path: Path) -> U64:
        with open(path, "rb", buffering=0) as file:
            if not os.fstat(file.fileno()).st_size:  # an empty file cannot be mapped
                return np.empty(0, np.uint64)
            mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        self._maps.append(mapped)
        return np.frombuffer(mapped, np.uint64)


def _bits_of(num_ranges: int) -> int:
    """Bits of the number of a range."""
    bits = num_ranges.bit_length() - 1
    assert num_ranges == 1 << bits, num_ranges
    return bits


def _slots_of(hashes: U64, range_bits: int, bits: int) -> I64:
    """The slot of each hash in its range: `bits` bits after those of the range's number."""
    return (hashes << np.uint64(range_bits) >> np.uint64(64 - bits)).view(np.int64)


def _mark(slots: npt.NDArray[np.uint8], ascending: I64) -> None:
    """Sets the bits of ascending numbers."""
    if len(ascending):
        numbers = ascending >> 3
        bits = np.uint8(1) << (ascending & 7).astype(np.uint8)
        starts = np.flatnonzero(np.append(True, numbers[1:] != numbers[:-1]))
        slots[numbers[starts]] |= np.bitwise_or.reduceat(bits, starts)
