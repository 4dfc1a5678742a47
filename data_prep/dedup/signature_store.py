"""Signatures and hashes of all documents on disk, read by document number in little memory."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from data_prep.dedup.array_files import ArrayFiles
from data_prep.dedup.key_order import key_order
from data_prep.dedup.limits import DedupLimits
from data_prep.dedup.minhash import NUM_BANDS
from data_prep.dedup.signatures import FileRun, first_documents
from data_prep.text.batch import I64, U64


class SignatureStore:
    """The signatures and hashes of all documents, by document number, in the parts' files."""

    def __init__(
        self, folder: Path, runs: Sequence[FileRun], limits: DedupLimits | None = None
    ) -> None:
        """`folder` is that of the signatures stage, `runs` are its parts."""
        limits = limits or DedupLimits()
        self._names, self._first = first_documents(runs)
        self.num_documents = int(self._first[-1])
        self._files = ArrayFiles(folder, limits.open_files)

    def signatures_of(self, numbers: I64) -> U64:
        """The signatures of the documents `numbers`: [n, 14].

        They are read in the order on disk.
        """
        order = self.order(numbers)
        result = np.empty((len(numbers), NUM_BANDS), dtype=np.uint64)
        for name, here, rows in self._by_part(numbers[order]):
            self._files.read_rows(f"{name}.signatures.npy", rows, order[here], result)
        return result

    def second_hashes_of(self, numbers: I64) -> U64:
        """The second hash of the documents `numbers`: [n]."""
        order = self.order(numbers)
        result = np.empty((len(numbers), 1), dtype=np.uint64)
        for name, here, rows in self._by_part(numbers[order]):
            _, num_rows = self._files.shape(f"{name}.hashes.npy")
            self._files.read_rows(f"{name}.hashes.npy", num_rows + rows, order[here], result)
        return result[:, 0]

    def order(self, numbers: I64) -> I64:
        """The positions of `numbers` of documents in ascending order."""
        return key_order(numbers.view(np.uint64), 0, self.num_documents)

    def _by_part(self, ascending: I64) -> list[tuple[str, slice, I64]]:
        """(name of a part, the places of its documents in `ascending`, their rows in its files)."""
        bounds = np.searchsorted(ascending, self._first)
        return [
            (name, slice(start, end), ascending[start:end] - first)
            for name, first, (start, end) in zip(
                self._names, self._first[:-1], pairwise(bounds.tolist()), strict=True
            )
            if start < end
        ]
