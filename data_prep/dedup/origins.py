"""Of which document a dropped duplicate is one, and how similar the two are."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data_prep.dedup.candidates import PairsPart
from data_prep.dedup.config import DedupConfig
from data_prep.dedup.minhash import similarity
from data_prep.dedup.signature_store import SignatureStore
from data_prep.dedup.signatures import FileRun
from data_prep.dedup.verdicts import KEPT_FOR_SUFFIX
from data_prep.engine.stage import StageResult
from data_prep.text.batch import I64


class Twin(NamedTuple):
    """A document that another one is a duplicate of."""

    number: int
    similarity: float | None
    """The estimated Jaccard similarity; None without signatures."""


class Origins:
    """What the duplicates of a run are duplicates of."""

    def __init__(
        self,
        signed: StageResult[FileRun],
        first_pairs: StageResult[PairsPart],
        verdicts: StageResult[FileRun],
        config: DedupConfig,
    ) -> None:
        self._first_pairs, self._near = first_pairs, config.near
        self._verdicts = verdicts
        self._store = SignatureStore(signed.folder, signed.parts)

    def of_exact(self, number: int) -> Iterator[tuple[str, Twin]]:
        """``duplicate_of``, the first document with the same words as `number`; ``kept``, if that
        is a duplicate of another one itself."""
        kept = self._kept(number)
        first = self._first_equal(number)
        yield "duplicate_of", Twin(first, 1.0)
        if kept != first:
            yield "kept", self._compared(number, [kept])[0]

    def of_near(self, number: int) -> Iterator[tuple[str, Twin]]:
        """``duplicate_of``, the document that is kept for `number`; ``through``, the most similar
        document of the cluster, if the kept one is less similar than duplicates have to be."""
        twin = self._compared(number, [self._kept(number)])[0]
        yield "duplicate_of", twin
        assert self._near is not None
        assert twin.similarity is not None
        if twin.similarity < self._near.min_similarity:
            members = [
                member
                for path in self._verdicts.files(KEPT_FOR_SUFFIX)
                for member in _duplicates_of(path, twin.number)
            ]
            others = self._compared(number, [member for member in members if member != number])
            if others:
                yield "through", max(others, key=lambda other: other.similarity or 0)

    def _kept(self, number: int) -> int:
        """The document that is kept for a duplicate."""
        for run, path in zip(
            self._verdicts.parts, self._verdicts.files(KEPT_FOR_SUFFIX), strict=True
        ):
            if 0 <= number - run.files[0].first < run.num_documents:
                duplicates, kept = np.load(path, mmap_mode="r")
                place = int(np.searchsorted(duplicates, number))
                assert duplicates[place] == number, number
                return int(kept[place])
        raise KeyError(number)

    def _first_equal(self, number: int) -> int:
        """The first document with the same words as a duplicate."""
        pairs = zip(self._first_pairs.parts, self._first_pairs.files(".pairs.npy"), strict=True)
        for path in (path for part, path in pairs if part.band is None):
            first, itself = np.load(path, mmap_mode="r")
            places: I64 = np.flatnonzero(itself == number)
            if len(places):
                return int(first[places[0]])
        raise KeyError(number)

    def _compared(self, number: int, others: list[int]) -> list[Twin]:
        """Other documents, each with its similarity to `number`."""
        if self._near is None:
            return [Twin(other, None) for other in others]
        signatures = self._store.signatures_of(np.array([*others, number], dtype=np.int64))
        estimates: npt.NDArray[np.float64] = similarity(signatures[:-1], signatures[-1:])
        return [Twin(*pair) for pair in zip(others, estimates.tolist(), strict=True)]


def _duplicates_of(kept_for: Path, number: int) -> list[int]:
    """The documents in a file for which `number` is kept."""
    duplicates, kept = np.load(kept_for, mmap_mode="r")
    found: list[int] = duplicates[kept == number].tolist()
    return found
