"""The join of a range of keys: pairs of the documents that have a key in common."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_prep.dedup.array_files import WindowedArray
from data_prep.dedup.clusters import number_type
from data_prep.dedup.joins import (
    NearPairs,
    SimilarToFirst,
    exact_pairs,
    exact_pairs_of_one_key,
    set_sizes,
)
from data_prep.dedup.keys import KeyRuns
from data_prep.dedup.limits import DedupLimits
from data_prep.dedup.signature_batches import signatures_of_batches
from data_prep.dedup.signature_store import SignatureStore
from data_prep.kernels.compiled import Numbers
from data_prep.text.batch import I64, U64

_AT_ONCE = 1 << 16
_ENOUGH_HELD, _MOST_HELD = 1 << 20, 1 << 21
"""Documents of sets that are looked up together: after a range of keys, and at any time."""


class KnownClusters:
    """What the first pairs say of the documents, by number."""

    def __init__(
        self,
        labels: Path | None = None,
        copies: Path | None = None,
        limits: DedupLimits | None = None,
    ) -> None:
        """Files of a label and of a bit for each document; None: nothing is known."""
        window_bytes = (limits or DedupLimits()).window_bytes
        self._labels, self._copies = (
            WindowedArray(path, window_bytes) if path else None for path in (labels, copies)
        )

    def roots_of(self, numbers: Numbers) -> I64:
        """The first document of the cluster of each."""
        labels = numbers if self._labels is None else self._labels.at(numbers)
        return labels.astype(np.int64)

    def are_first(self, numbers: Numbers) -> npt.NDArray[np.bool_]:
        """Whether no earlier document is equal."""
        if self._copies is None:
            return np.ones(len(numbers), dtype=bool)
        bits = self._copies.at(numbers >> 3) & (128 >> (numbers & 7)).astype(np.uint8)
        are_first: npt.NDArray[np.bool_] = bits == 0
        return are_first


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
        scratch: Path,
    ) -> None:
        """Temporary files are in the folder `scratch`."""
        self._scratch = scratch
        self._runs, self._store, self._known = runs, store, known
        self._min_similarity, self._limits = min_similarity, limits
        self.compared: Counter[str] = Counter(candidates=0, uncompared=0)
        """Pairs that were compared, and documents that were not, once `pairs` is at its end."""

    def pairs(self, band: int | None, low: int, high: int) -> Iterator[I64]:
        """[2, P] (earlier, later), some at a time, of the keys of `band` from `low` to `high`; None
        for exact duplicates, the later ones of which have one pair each."""
        near = NearPairs(
            self._store.signatures_of,
            partial(signatures_of_batches, self._store, self._scratch),
            *(self._min_similarity, self._known.roots_of, self._known.are_first),
            number_type(self._store.num_documents),
        )
        for part in self._runs.ranges(band, low, high, self._limits.range_keys):
            if part.low == part.high and part.num_keys > self._limits.set_documents:
                numbers = partial(self._runs.numbers_in, part, _AT_ONCE)
                yield from self._pairs_of_one_key(band, numbers)
            else:
                for keys, documents in self._runs.recurring_in(part):
                    yield from self._pairs_of(band, keys, documents, near)
                    if near.num_held >= _MOST_HELD:
                        yield from near.rest()
            if near.num_held >= _ENOUGH_HELD:
                yield from near.rest()
        yield from near.rest()
        self.compared.update(near.compared)

    def _pairs_of(
        self, band: int | None, keys: U64, numbers: I64, near: NearPairs
    ) -> Iterator[I64]:
        """The pairs of documents with equal keys, both ascending by key and number; those that
        `near` holds come later."""
        sizes = set_sizes(keys)
        starts = np.cumsum(sizes) - sizes
        is_large = sizes > self._limits.set_documents
        for start, size in zip(starts[is_large].tolist(), sizes[is_large].tolist(), strict=True):
            of_set = [numbers[start : start + size]]
            yield from self._pairs_of_one_key(band, partial(iter, of_set))
        if is_large.any():
            rest = np.repeat(~is_large, sizes)
            keys, numbers, sizes = keys[rest], numbers[rest], sizes[~is_large]
        if band is None:
            pairs = exact_pairs(keys, self._store.second_hashes_of(numbers), numbers)
            self.compared["candidates"] += pairs.shape[1]
            yield pairs
        else:
            near.add(sizes, numbers)

    def _pairs_of_one_key(
        self, band: int | None, numbers: Callable[[], Iterable[I64]]
    ) -> Iterator[I64]:
        if band is None:
            some = _some_at_a_time(numbers())
            for pairs in exact_pairs_of_one_key(some, self._store.second_hashes_of):
                self.compared["candidates"] += pairs.shape[1]
                yield pairs
            return

        def without_copies() -> Iterator[I64]:
            return _some_at_a_time(some[self._known.are_first(some)] for some in numbers())

        similar = SimilarToFirst(
            self._store.signatures_of, self._min_similarity, self._known.roots_of
        )
        yield from similar.pairs(without_copies)
        self.compared.update(similar.compared)


def _some_at_a_time(parts: Iterable[I64]) -> Iterator[I64]:
    """The same numbers, _AT_ONCE of them together, however they come: what is compared depends on
    that."""
    held: list[I64] = []
    room = _AT_ONCE
    for part in parts:
        at = 0
        while at < len(part):
            held.append(part[at : at + room])
            at += room
            room -= len(held[-1])
            if not room:
                yield np.concatenate(held)
                held, room = [], _AT_ONCE
    if held:
        yield np.concatenate(held)
