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
from data_prep.dedup.verdicts import KEPT_FOR
from data_prep.engine.stage import Part, StageResult
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
        verdicts: StageResult[Part],
        config: DedupConfig,
    ) -> None:
        self._first_pairs, self._near = first_pairs, config.near
        self._kept_for: Path = verdicts.folder / KEPT_FOR
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
            duplicates, kept = np.load(self._kept_for, mmap_mode="r")
            members = np.array(duplicates[kept == twin.number], dtype=np.int64)
            others = self._compared(number, members[members != number].tolist())
            if others:
                yield "through", max(others, key=lambda other: other.similarity or 0)

    def _kept(self, number: int) -> int:
        """The document that is kept for a duplicate."""
        duplicates, kept = np.load(self._kept_for, mmap_mode="r")
        place = int(np.searchsorted(duplicates, number))
        assert duplicates[place] == number, number
        return int(kept[place])

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
