"""The join of a range of keys: pairs of the documents that have a key in common."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.dedup.array_files import ArrayFiles
from data_prep.dedup.joins import (
    SimilarToFirst,
    exact_pairs,
    exact_pairs_of_one_key,
    near_pairs,
)
from data_prep.dedup.keys import KeyRuns
from data_prep.dedup.limits import DedupLimits
from data_prep.dedup.signature_store import SignatureStore
from data_prep.text.batch import I64, U64

_AT_ONCE = 1 << 16
_SLACK = 1.25
"""By how much a range of keys may exceed the usual number of documents before it is divided."""


class KnownClusters:
    """What the first pairs say of the documents, by number."""

    def __init__(
        self,
        labels: Path | None = None,
        copies: Path | None = None,
        limits: DedupLimits | None = None,
    ) -> None:
        """Files of a label and of a bit for each document; None: nothing is known."""
        limits = limits or DedupLimits()
        self._labels, self._copies = (
            _ValuesOfDocuments(path, limits) if path else None for path in (labels, copies)
        )

    def roots_of(self, numbers: I64) -> I64:
        """The first document of the cluster of each."""
        return numbers if self._labels is None else self._labels.at(numbers).astype(np.int64)

    def are_first(self, numbers: I64) -> npt.NDArray[np.bool_]:
        """Whether no earlier document is equal."""
        if self._copies is None:
            return np.ones(len(numbers), dtype=bool)
        bits = self._copies.at(numbers >> 3) & (128 >> (numbers & 7)).astype(np.uint8)
        are_first: npt.NDArray[np.bool_] = bits == 0
        return are_first


class _ValuesOfDocuments:
    """A file of an array [N], read in places: mapped as a whole if it is small."""

    def __init__(self, path: Path, limits: DedupLimits) -> None:
        self._path = path
        self._files = ArrayFiles(path.parent, 1)
        self._is_small = path.stat().st_size <= limits.mapped_bytes

    def at(self, places: I64) -> npt.NDArray[Any]:
        """The values at some places."""
        if not len(places):
            return np.empty(0, np.uint8)  # the file may hold nothing, too
        if self._is_small:
            return np.asarray(self._mapped[places])
        ascending, inverse = np.unique(places, return_inverse=True)
        values: npt.NDArray[Any] = self._files.values(self._path.name, ascending)[inverse, 0]
        return values

    @cached_property
    def _mapped(self) -> npt.NDArray[Any]:
        mapped: npt.NDArray[Any] = np.load(self._path, mmap_mode="r")
        return mapped


class RangeJoin:
    """Pairs of documents whose keys are in a range.

    The memory does not depend on how many documents share a key.
    """

    def __init__(
        self,
        runs: KeyRuns,
        store: SignatureStore,
        known: KnownClusters,
        min_similarity: float,
        limits: DedupLimits,
    ) -> None:
        self._runs, self._store, self._known = runs, store, known
        self._min_similarity, self._limits = min_similarity, limits
        self.compared: Counter[str] = Counter(candidates=0, uncompared=0)
        """Pairs that were compared, and documents that were not, once `pairs` is at its end."""

    def pairs(self, band: int | None, low: int, high: int) -> Iterator[I64]:
        """[2, P] (earlier, later), some at a time, of the keys of `band` from `low` to `high`; None
        for exact duplicates, the later ones of which have one pair each."""
        most = int(self._limits.join_documents * _SLACK)
        for part in self._runs.ranges(band, low, high, most):
            if part.low == part.high and part.num_keys > most:
                numbers = partial(self._runs.numbers_in, part, _AT_ONCE)
                yield from self._pairs_of_one_key(band, numbers)
            else:
                for keys, documents in self._runs.recurring_in(part):
                    yield from self._pairs_of(band, keys, documents)

    def _pairs_of(self, band: int | None, keys: U64, numbers: I64) -> Iterator[I64]:
        """The pairs of documents with equal keys, both ascending by key and number."""
        if not len(keys):
            return
        starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))
        sizes = np.diff(np.append(starts, len(keys)))
        is_large = sizes > self._limits.set_documents
        for start, size in zip(starts[is_large].tolist(), sizes[is_large].tolist(), strict=True):
            yield from self._pairs_of_one_key(
                band, partial(_in_parts, numbers[start : start + size])
            )
        rest = np.repeat(~is_large, sizes)
        if band is not None:
            rest &= self._known.are_first(numbers)
        keys, numbers = keys[rest], numbers[rest]
        if band is None:
            pairs = exact_pairs(keys, self._store.second_hashes_of(numbers), numbers)
            self.compared["candidates"] += pairs.shape[1]
        else:
            pairs, compared = near_pairs(
                *(keys, numbers, self._store.signatures_of),
                *(self._min_similarity, self._known.roots_of),
            )
            self.compared.update(compared)
        yield pairs

    def _pairs_of_one_key(
        self, band: int | None, numbers: Callable[[], Iterable[I64]]
    ) -> Iterator[I64]:
        if band is None:
            for pairs in exact_pairs_of_one_key(numbers(), self._store.second_hashes_of):
                self.compared["candidates"] += pairs.shape[1]
                yield pairs
            return

        def without_copies() -> Iterator[I64]:
            firsts = (some[self._known.are_first(some)] for some in numbers())
            return (some for some in firsts if len(some))

        similar = SimilarToFirst(
            self._store.signatures_of, self._min_similarity, self._known.roots_of
        )
        yield from similar.pairs(without_copies)
        self.compared.update(similar.compared)


def _in_parts(numbers: I64) -> Iterator[I64]:
    return (numbers[at : at + _AT_ONCE] for at in range(0, len(numbers), _AT_ONCE))
