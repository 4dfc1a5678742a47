"""Sets of 64-bit hashes on disk, with a value or none for each, looked up without reading them all.

A table is a few files: ``NAME.0.u64`` holds the hashes, ascending, ``NAME.1.u64`` the value of
each where there are values, and ``NAME.slots.npy`` says for each possible beginning of a hash
whether any has it, so that most of what is not there is told without a search.
"""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_prep.dataset.atomic import open_atomic, save_array
from data_prep.engine.stages import Part
from data_prep.text.batch import I64, U64

_SLOTS_PER_HASH, _MAX_SLOT_BITS = 8, 27


def write_hash_table(
    folder: Path, name: str, pieces: Iterable[U64], num_columns: int, at_most: int
) -> tuple[int, list[str]]:
    """Writes a table of `pieces` ([columns, n] each, the hashes ascending from piece to piece), of
    `at_most` hashes; gives their number and the names of the files."""
    bits = min(max(at_most * _SLOTS_PER_HASH, 2).bit_length(), _MAX_SLOT_BITS)
    slots = np.zeros(1 << bits, dtype=bool)
    names = [f"{name}.{column}.u64" for column in range(num_columns)]
    length = 0
    with ExitStack() as open_files:
        files = [open_files.enter_context(open_atomic(folder / n)) for n in names]
        for piece in pieces:
            slots[_beginnings(piece[0], bits)] = True
            for file, column in zip(files, piece, strict=True):
                file.write(np.ascontiguousarray(column).data)
            length += piece.shape[1]
    save_array(folder / f"{name}.slots.npy", slots)
    return length, [*names, f"{name}.slots.npy"]


class HashTable:
    """A table that `write_hash_table` wrote, mapped into memory."""

    def __init__(self, folder: Path, name: str) -> None:
        self._hashes = _mapped(folder / f"{name}.0.u64")
        values = folder / f"{name}.1.u64"
        self.values = _mapped(values) if values.exists() else None
        """The value of each hash, in their order."""
        self._slots: npt.NDArray[np.bool_] = np.load(folder / f"{name}.slots.npy", mmap_mode="r")

    def find(self, hashes: U64) -> tuple[I64, I64]:
        """(positions of those `hashes` that are in the table, where in the table each is)."""
        bits = len(self._slots).bit_length() - 1
        maybe = np.flatnonzero(self._slots[_beginnings(hashes, bits)])
        if not len(maybe):
            return maybe, maybe
        wanted = hashes[maybe]
        place = np.minimum(np.searchsorted(self._hashes, wanted), len(self._hashes) - 1)
        found = self._hashes[place] == wanted
        return maybe[found], place[found]


def _beginnings(hashes: U64, bits: int) -> I64:
    return (hashes >> np.uint64(64 - bits)).astype(np.int64)


def _mapped(path: Path) -> U64:
    if not path.stat().st_size:  # which cannot be mapped
        return np.empty(0, np.uint64)
    return np.asarray(np.memmap(path, np.uint64, mode="r"))


def range_of(number: int, of: int) -> tuple[np.uint64, np.uint64]:
    """The lowest and the highest hash of the `number`-th of `of` equal ranges of all hashes."""
    first, end = number * (1 << 64) // of, (number + 1) * (1 << 64) // of
    return np.uint64(first), np.uint64(end - 1)


def in_range(ascending: U64, number: int, of: int) -> slice:
    """The places of the hashes of a range in an ascending array."""
    low, high = range_of(number, of)
    begin = np.searchsorted(ascending, low)
    return slice(int(begin), int(np.searchsorted(ascending, high, side="right")))


def parts_by_range(counts: Mapping[str, int], at_once: int, bytes_each: int) -> list[Part]:
    """For each source with so many hashes, a part for each range that holds about `at_once`."""
    parts = []
    for source, count in counts.items():
        ranges = -(-count // at_once) or 1
        parts += [
            Part(
                f"{source}-{number:06d}",
                {"source": source, "range": number, "ranges": ranges},
                bytes_each * count // ranges,
            )
            for number in range(ranges)
        ]
    return parts
