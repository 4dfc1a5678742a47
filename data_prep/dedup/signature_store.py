"""Signatures and hashes of all documents on disk, read by document number in little memory."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from data_prep.dedup.limits import DedupLimits
from data_prep.dedup.mapped_arrays import MappedArrays
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
        num_bytes = self.num_documents * 8 * (NUM_BANDS + 2)
        self._files = MappedArrays(folder, limits.open_files, num_bytes <= limits.mapped_bytes)

    def signatures_of(self, numbers: I64) -> U64:
        """The signatures of the documents `numbers`: [n, 14].

        Each document is read once, in the order on disk.
        """
        ascending, places = np.unique(numbers, return_inverse=True)
        result = np.empty((len(ascending), NUM_BANDS), dtype=np.uint64)
        for name, here, rows in self._by_part(ascending):
            result[here] = self._files.array(f"{name}.signatures.npy")[rows]
            self._files.release(f"{name}.signatures.npy")
        return result[places]

    def second_hashes_of(self, numbers: I64) -> U64:
        """The second hash of the documents `numbers`: [n]."""
        order = np.argsort(numbers, kind="stable")
        result = np.empty(len(numbers), dtype=np.uint64)
        for name, here, rows in self._by_part(numbers[order]):
            result[order[here]] = self._files.array(f"{name}.hashes.npy")[1, rows]
            self._files.release(f"{name}.hashes.npy")
        return result

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
