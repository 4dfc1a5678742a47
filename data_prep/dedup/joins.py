"""Pairs of equal and of similar documents, from sorted keys: pure functions of arrays."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.dedup.minhash import least_equal_bytes, similarity
from data_prep.kernels.compiled import Numbers
from data_prep.kernels.joins import sets_to_compare, similar_in_sets
from data_prep.text.batch import I64, U64

_MAX_GROUP_ALL_PAIRS, _MAX_ROUNDS = 32, 64
_PAIRS_AT_ONCE = 1 << 16
_DOCUMENTS_AT_ONCE = 1 << 16
"""So many, about, whose signatures are in memory together: 7 MB."""


def exact_pairs(keys: U64, second_keys: U64, numbers: I64) -> I64:
    """(first document, later document) for each set of equal 128-bit keys: [2, P].

    The `numbers` of documents with equal keys are ascending.
    """
    order = np.lexsort((second_keys, keys))
    keys, second_keys, numbers = keys[order], second_keys[order], numbers[order]
    is_first = np.ones(len(keys), dtype=bool)
    is_first[1:] = (keys[1:] != keys[:-1]) | (second_keys[1:] != second_keys[:-1])
    first = numbers[is_first][np.cumsum(is_first) - 1] if len(numbers) else numbers
    return np.stack([first[~is_first], numbers[~is_first]])


def near_pairs(
    keys: U64,
    numbers: I64,
    signatures_of: Callable[[I64], U64],
    min_similarity: float,
    roots_of: Callable[[I64], I64] = lambda numbers: numbers,
) -> tuple[I64, dict[str, int]]:
    """The pairs of `NearPairs` from keys in any order: [2, P], and how many were compared."""
    order = np.argsort(keys, kind="stable")
    near = NearPairs(
        signatures_of,
        lambda batches: (signatures_of(some.astype(np.int64)) for some in batches),
        min_similarity,
        roots_of,
    )
    near.add(set_sizes(keys[order]), numbers[order])
    found = [np.empty((2, 0), dtype=np.int64), *near.rest()]
    return np.concatenate(found, axis=1), near.compared


def set_sizes(keys: U64) -> I64:
    """How many there are of each of the ascending `keys` [N]: [S]."""
    is_last = np.append(keys[1:] != keys[:-1], True)[: len(keys)]
    return np.diff(np.flatnonzero(is_last), prepend=-1)


class NearPairs:
    """Pairs (earlier, later) of documents with equal keys and similar signatures.

    Within a set of up to 32 documents with equal keys, all pairs are compared, except those in one
    known cluster, for which `roots_of` gives the same number. In a larger set, all documents are
    compared with the first, the dissimilar ones with the first of them, and so on: as nearly all
    documents of a large set resemble its first, that is linear in its size. Those in the known
    cluster of the first are left out where all others resemble it: what is left would be pairs in
    that cluster. Documents that are left after 64 rounds are counted as ``uncompared``.

    Sets are held, so that what is known of many documents, and their signatures, are read together.
    """

    def __init__(
        self,
        signatures_of: Callable[[I64], U64],
        signatures_of_batches: Callable[[Sequence[Numbers]], Iterator[U64]],
        min_similarity: float,
        roots_of: Callable[[I64], I64],
        are_first: Callable[[I64], npt.NDArray[np.bool_]] | None = None,
        number_type: type[np.integer[Any]] = np.int64,
    ) -> None:
        """Documents that `are_first` is false of are left out. `number_type` is that in which
        numbers are held."""
        self._signatures_of, self._signatures_of_batches = signatures_of, signatures_of_batches
        self._min_similarity, self._roots_of = min_similarity, roots_of
        self._are_first, self._number_type = are_first, number_type
        self._held: list[tuple[Numbers, Numbers]] = []
        self._num_held = 0
        self.compared = {"candidates": 0, "uncompared": 0}
        """Pairs that were compared, and documents that were not, once `rest` is at its end."""

    def add(self, sizes: I64, numbers: I64) -> None:
        """Adds sets of `sizes` [S] of documents with equal keys, whose `numbers` [N] ascend in each
        set."""
        self._held.append((sizes.astype(np.uint32), numbers.astype(self._number_type)))
        self._num_held += len(numbers)

    @property
    def num_held(self) -> int:
        """Documents of the sets that are held."""
        return self._num_held

    def rest(self) -> Iterator[I64]:
        """[2, P], some at a time, from the sets that are held."""
        if not self._held:
            return
        sizes, numbers = (np.concatenate(each) for each in zip(*self._held, strict=True))
        self._held, self._num_held = [], 0
        if self._are_first is not None:
            sizes, numbers = _chosen(sizes, numbers, self._are_first(numbers))
        roots = self._roots_of(numbers)
        starts = np.append(0, np.cumsum(sizes, dtype=np.int64))
        are_compared = sets_to_compare(starts, roots)
        is_small = sizes <= _MAX_GROUP_ALL_PAIRS
        large, small = (np.repeat(sets, sizes) for sets in (~is_small, is_small & are_compared))
        if large.any():
            yield from self._pairs_in_large_sets(sizes[~is_small], numbers[large], roots[large])
        if not small.all():
            sizes, numbers, roots = sizes[is_small & are_compared], numbers[small], roots[small]
        del starts, are_compared, is_small, large, small
        yield from self._pairs_in_small_sets(sizes, numbers, roots)

    def _pairs_in_small_sets(self, sizes: Numbers, numbers: Numbers, roots: I64) -> Iterator[I64]:
        if not len(sizes):
            return
        cuts, bounds = _cuts(sizes)
        numbers_of, roots_of = np.split(numbers, bounds), np.split(roots, bounds)
        signatures = self._signatures_of_batches(numbers_of)
        batches = zip(np.split(sizes, cuts), numbers_of, roots_of, signatures, strict=True)
        for each, here, of_root, signed in batches:
            width = signed.shape[1]
            pairs, num_compared = similar_in_sets(
                np.append(0, np.cumsum(each, dtype=np.int64)),
                of_root,
                signed.reshape(-1),
                width,
                least_equal_bytes(self._min_similarity, 8 * width),
            )
            del signed
            self.compared["candidates"] += num_compared
            yield here[pairs.reshape(-1, 2).T].astype(np.int64)

    def _pairs_in_large_sets(self, sizes: Numbers, numbers: Numbers, roots: I64) -> Iterator[I64]:
        _, bounds = _cuts(sizes)
        set_of = np.repeat(np.arange(len(sizes)), sizes)
        for start, end in pairwise([0, *bounds.tolist(), len(numbers)]):
            here = numbers[start:end].astype(np.int64)
            yield self._pairs_with_first(set_of[start:end], here, roots[start:end])

    def _pairs_with_first(self, set_of: I64, numbers: I64, roots: I64) -> I64:
        found = [np.empty((2, 0), dtype=np.int64)]
        rest = np.arange(len(numbers))
        for _ in range(_MAX_ROUNDS):
            if len(rest) < 2:
                break
            is_first = np.append(True, set_of[rest[1:]] != set_of[rest[:-1]])
            place = (np.cumsum(is_first) - 1)[~is_first]
            first, rest = rest[is_first][place], rest[~is_first]
            is_known = roots[first] == roots[rest]
            left, right = numbers[first], numbers[rest]
            similar = is_known.copy()
            similar[~is_known] = self._are_similar(left[~is_known], right[~is_known])
            again = is_known & np.isin(place, place[~similar])  # in sets not at their end
            similar[again] = self._are_similar(left[again], right[again])
            self.compared["candidates"] += int((again | ~is_known).sum())
            joined = similar & ~is_known
            found.append(np.stack([left[joined], right[joined]]))
            rest = rest[~similar]
        left_over = np.unique(set_of[rest], return_counts=True)[1]
        # A single one was compared with all.
        self.compared["uncompared"] += int(left_over[left_over > 1].sum())
        return np.concatenate(found, axis=1)

    def _are_similar(self, left: I64, right: I64) -> npt.NDArray[np.bool_]:
        result = np.empty(len(left), dtype=bool)
        for at in range(0, len(left), _PAIRS_AT_ONCE):
            chunk = slice(at, at + _PAIRS_AT_ONCE)
            signed = self._signatures_of(np.concatenate([left[chunk], right[chunk]]))
            result[chunk] = similarity(*np.split(signed, 2)) >= self._min_similarity
        return result


def _cuts(sizes: Numbers) -> tuple[I64, I64]:
    """Where sets of `sizes` are cut to batches of about _DOCUMENTS_AT_ONCE documents: the first set
    of each batch but the first, and its first document."""
    ends = np.cumsum(sizes, dtype=np.int64)
    cuts = np.flatnonzero(np.diff(ends // _DOCUMENTS_AT_ONCE)) + 1
    return cuts, ends[cuts - 1]


def _chosen(
    sizes: Numbers, numbers: Numbers, is_chosen: npt.NDArray[np.bool_]
) -> tuple[Numbers, Numbers]:
    """Sizes and documents of sets without the documents that are not chosen."""
    if is_chosen.all():
        return sizes, numbers
    ends = np.cumsum(sizes, dtype=np.int64)
    before = np.append(0, np.cumsum(is_chosen, dtype=np.int64))
    left = np.diff(before[ends], prepend=0)
    return left[left > 0].astype(sizes.dtype), numbers[is_chosen]


def exact_pairs_of_one_key(
    numbers: Iterable[I64], second_keys_of: Callable[[I64], U64]
) -> Iterator[I64]:
    """The `exact_pairs` of documents that all have the same first key.

    `numbers`: the documents, ascending, some at a time; the memory does not depend on how many.
    """
    first_of: dict[int, int] = {}
    for some in numbers:
        seconds, places, inverse = np.unique(
            second_keys_of(some), return_index=True, return_inverse=True
        )
        found = zip(seconds.tolist(), some[places].tolist(), strict=True)
        first = np.array([first_of.setdefault(key, number) for key, number in found])[inverse]
        yield np.stack([first[first != some], some[first != some]])


class SimilarToFirst:
    """The `near_pairs` of a large set of documents that all have the same key.

    The memory does not depend on how many there are.
    """

    def __init__(
        self,
        signatures_of: Callable[[I64], U64],
        min_similarity: float,
        roots_of: Callable[[I64], I64] = lambda numbers: numbers,
    ) -> None:
        self._signatures_of, self._min_similarity = signatures_of, min_similarity
        self._roots_of = roots_of
        self.compared = {"candidates": 0, "uncompared": 0}
        """As `near_pairs` counts them, once `pairs` is at its end."""

    def pairs(self, numbers: Callable[[], Iterable[I64]]) -> Iterator[I64]:
        """[2, P] from each part of the documents, which `numbers` gives again at every call:
        ascending, some at a time. Pairs in one known cluster are left out."""
        some = next(iter(numbers()), np.empty(0, np.int64))
        num_known = (self._roots_of(some[1:]) == self._roots_of(some[:1])).sum()
        if 2 * num_known < len(some) or not (yield from self._pairs_with_first(numbers())):
            yield from self._all_pairs(numbers())

    def _pairs_with_first(self, numbers: Iterable[I64]) -> Generator[I64, None, bool]:
        """Compares what is not in the known cluster of the first document with it; whether all
        of that resembles it."""
        first: I64 | None = None
        for some in numbers:
            if first is None:
                first = some[:1]
                root, signed = self._roots_of(first), self._signatures_of(first)
            others = some[self._roots_of(some) != root]
            if not len(others):
                continue
            self.compared["candidates"] += len(others)
            similar = similarity(signed, self._signatures_of(others)) >= self._min_similarity
            if not similar.all():
                return False
            yield np.stack([np.repeat(first, len(others)), others])
        return True

    def _all_pairs(self, numbers: Iterable[I64]) -> Iterator[I64]:
        firsts: list[int] = []
        signed: list[U64] = []
        left_over = 0
        for some in numbers:
            signatures, roots = self._signatures_of(some), self._roots_of(some)
            rest = np.arange(len(some))
            for turn in range(_MAX_ROUNDS):
                if turn == len(firsts) and len(rest):
                    firsts.append(int(some[rest[0]]))
                    signed.append(signatures[rest[:1]])
                    rest = rest[1:]
                if not len(rest):
                    break
                self.compared["candidates"] += len(rest)
                similar = similarity(signed[turn], signatures[rest]) >= self._min_similarity
                root = self._roots_of(np.array(firsts[turn : turn + 1]))
                found = some[rest[similar & (roots[rest] != root)]]
                yield np.stack([np.full(len(found), firsts[turn]), found])
                rest = rest[~similar]
            left_over += len(rest)
        self.compared["uncompared"] = left_over if left_over > 1 else 0
