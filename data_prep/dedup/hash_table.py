"""Sets of 64-bit hashes on disk, each hash with an optional value, looked up without a full read.

A table is a few files: ``NAME.0.u64`` holds the hashes, ascending, ``NAME.1.u64`` the value of
each where there are values, and ``NAME.slots.npy`` says for each prefix of a hash whether any hash
has it, so that most hashes that are not in the table need no search.
"""

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_prep.dataset.atomic import open_atomic, save_array
from data_prep.text.batch import I64, U64

_SLOTS_PER_HASH = 8
MAX_SLOT_BITS = 27


def write_hash_table(
    folder: Path,
    name: str,
    pieces: Iterable[U64],
    num_columns: int,
    at_most: int,
    max_slot_bits: int = MAX_SLOT_BITS,
) -> tuple[int, list[str]]:
    """Writes a table; returns its number of hashes and the names of its files.

    `pieces` are [columns, n] each, the hashes ascending from piece to piece, of `at_most` hashes
    together. There are up to 2^`max_slot_bits` slots, of a byte.
    """
    bits = min(max(at_most * _SLOTS_PER_HASH, 2).bit_length(), max_slot_bits)
    slots = np.zeros(1 << bits, dtype=bool)
    names = [f"{name}.{column}.u64" for column in range(num_columns)]
    length = 0
    with ExitStack() as open_files:
        files = [open_files.enter_context(open_atomic(folder / n)) for n in names]
        for piece in pieces:
            slots[_prefixes(piece[0], bits)] = True
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
        """The value of each hash, in the order of the hashes."""
        self._slots: npt.NDArray[np.bool_] = np.load(folder / f"{name}.slots.npy", mmap_mode="r")

    def find(self, hashes: U64) -> tuple[I64, I64]:
        """(positions of those `hashes` that are in the table, position in the table of each)."""
        bits = len(self._slots).bit_length() - 1
        maybe = np.flatnonzero(self._slots[_prefixes(hashes, bits)])
        if not len(maybe):
            return maybe, maybe
        wanted = hashes[maybe]
        place = np.minimum(np.searchsorted(self._hashes, wanted), len(self._hashes) - 1)
        found = self._hashes[place] == wanted
        return maybe[found], place[found]


def _prefixes(hashes: U64, bits: int) -> I64:
    return (hashes >> np.uint64(64 - bits)).astype(np.int64)


def _mapped(path: Path) -> U64:
    if not path.stat().st_size:  # an empty file cannot be mapped
        return np.empty(0, np.uint64)
    return np.asarray(np.memmap(path, np.uint64, mode="r"))
