"""Signatures and hashes of all documents on disk, read by document number in little memory."""

import mmap
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from data_prep.dedup.clusters import number_type
from data_prep.dedup.hash_ranges import range_of
from data_prep.dedup.joins import recurring
from data_prep.dedup.limits import DedupLimits
from data_prep.dedup.minhash import NUM_BANDS
from data_prep.dedup.signatures import FileRun
from data_prep.text.batch import I64, U64


class SignatureStore:
    """The signatures and hashes of all documents, by document number, in the parts' files."""

    def __init__(
        self, folder: Path, runs: Sequence[FileRun], limits: DedupLimits | None = None
    ) -> None:
        """`folder` is that of the signatures stage, `runs` are its parts."""
        self._folder = folder
        self._limits = limits or DedupLimits()
        self._names = [run.name for run in runs if run.num_documents]
        counts = [run.num_documents for run in runs if run.num_documents]
        self._first = np.append(0, np.cumsum(counts, dtype=np.int64))
        self.num_documents = int(self._first[-1])
        self._number_type = number_type(self.num_documents)
        self._num_bytes = self.num_documents * 8 * (NUM_BANDS + 2)
        self._open: dict[tuple[str, int], tuple[mmap.mmap, U64]] = {}

    def recurring_keys(
        self, kind: str, keys_in: Callable[[U64], U64], number: int, num_ranges: int
    ) -> tuple[U64, I64]:
        """The keys that at least two documents have, and the numbers of these documents.

        Of all keys, those in range `number` of `num_ranges` equal ranges of 64-bit numbers;
        `keys_in` computes the keys of an array of `kind`.
        """
        low, high = range_of(number, num_ranges)
        keys, numbers = [np.empty(0, np.uint64)], [np.empty(0, self._number_type)]
        for part, first in enumerate(self._first[:-1]):
            column = np.array(keys_in(self._array(kind, part)))
            self._release(kind, part)
            if num_ranges > 1:
                inside = np.flatnonzero((column >= low) & (column <= high))
                column = column[inside]
            else:
                inside = np.arange(len(column))
            keys.append(column)
            numbers.append((inside + first).astype(self._number_type))
        all_keys = np.concatenate(keys)
        keys.clear()
        again = recurring(all_keys)
        return all_keys[again], np.concatenate(numbers)[again].astype(np.int64)

    def signatures_of(self, numbers: I64) -> U64:
        """The signatures of the documents `numbers`: [14, n]."""
        return self._columns("signatures", numbers, NUM_BANDS)

    def second_hashes_of(self, numbers: I64) -> U64:
        """The second hash of the documents `numbers`: [n]."""
        hashes: U64 = self._columns("hashes", numbers, 2)[1]
        return hashes

    def _columns(self, kind: str, numbers: I64, rows: int) -> U64:
        result = np.empty((rows, len(numbers)), dtype=np.uint64)
        part_of = np.searchsorted(self._first, numbers, side="right") - 1
        order = np.argsort(part_of, kind="stable")
        bounds = np.searchsorted(part_of[order], np.arange(len(self._names) + 1))
        for part, (start, end) in enumerate(pairwise(bounds)):
            if start < end:
                chosen = order[start:end]
                result[:, chosen] = self._array(kind, part)[:, numbers[chosen] - self._first[part]]
                self._release(kind, part)
        return result

    def _array(self, kind: str, part: int) -> U64:
        if (kind, part) not in self._open:
            if len(self._open) >= self._limits.open_files:
                del self._open[next(iter(self._open))]
            with open(self._folder / f"{self._names[part]}.{kind}.npy", "rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
                np.lib.format.read_magic(file)
                shape, _, dtype = np.lib.format.read_array_header_1_0(file)
                array: U64 = np.ndarray(shape, dtype, mapped, offset=file.tell())
            self._open[kind, part] = mapped, array
        return self._open[kind, part][1]

    def _release(self, kind: str, part: int) -> None:
        if self._num_bytes > self._limits.mapped_bytes:
            self._open[kind, part][0].madvise(mmap.MADV_DONTNEED)
