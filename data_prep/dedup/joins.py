"""Pairs of equal and of similar documents, from sorted keys: pure functions of arrays."""

from collections.abc import Callable, Generator, Iterable, Iterator

import numpy as np
import numpy.typing as npt

from data_prep.dedup.minhash import similarity
from data_prep.text.batch import I64, U64

_MAX_GROUP_ALL_PAIRS, _MAX_ROUNDS = 32, 64
_PAIRS_AT_ONCE, _PAIRS_HELD = 1 << 16, 1 << 22


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
    """Pairs (earlier, later) with equal keys and similar signatures: [2, P], and how many compared.

    The `numbers` of documents with equal keys are ascending.
    Within a set of up to 32 documents with equal keys, all pairs are compared, except those in one
    known cluster, for which `roots_of` gives the same number. In a larger set, all documents are
    compared with the first, the dissimilar ones with the first of them, and so on: as nearly all
    documents of a large set resemble its first, that is linear in its size. Those in the known
    cluster of the first are left out where all others resemble it: what is left would be pairs in
    that cluster. Documents that are left after 64 rounds are counted as ``uncompared``.
    """
    order = np.argsort(keys, kind="stable")  # quick where they are sorted
    keys, numbers = keys[order], numbers[order]
    starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1])) if len(keys) else order
    sizes = np.diff(np.append(starts, len(keys)))
    is_large = np.repeat(sizes > _MAX_GROUP_ALL_PAIRS, sizes)
    found: list[I64] = [np.empty((2, 0), dtype=np.int64)]
    candidates = 0
    roots = roots_of(numbers)
    for left, right in _pairs_in_small_sets(keys, numbers, roots, np.flatnonzero(~is_large)):
        candidates += len(left)
        similar = _are_similar(left, right, signatures_of, min_similarity)
        found.append(np.stack([left[similar], right[similar]]))
    rest = np.flatnonzero(is_large)
    for _ in range(_MAX_ROUNDS):
        if len(rest) < 2:
            break
        is_first = np.append(True, keys[rest[1:]] != keys[rest[:-1]])
        set_of = (np.cumsum(is_first) - 1)[~is_first]
        first, rest = rest[is_first][set_of], rest[~is_first]
        is_known = roots[first] == roots[rest]
        left, right = numbers[first], numbers[rest]
        similar = is_known.copy()
        similar[~is_known] = _are_similar(
            left[~is_known], right[~is_known], signatures_of, min_similarity
        )
        again = is_known & np.isin(set_of, set_of[~similar])  # in sets that are not at their end
        similar[again] = _are_similar(left[again], right[again], signatures_of, min_similarity)
        candidates += int((again | ~is_known).sum())
        joined = similar & ~is_known
        found.append(np.stack([left[joined], right[joined]]))
        rest = rest[~similar]
    pairs = np.concatenate(found, axis=1)
    pairs = pairs[:, np.lexsort((pairs[1], pairs[0]))]
    uncompared = len(rest) if len(rest) > 1 else 0  # a single one was compared with all
    return pairs, {"candidates": candidates, "uncompared": uncompared}


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


def _pairs_in_small_sets(
    keys: U64, numbers: I64, roots: I64, small: I64
) -> Iterator[tuple[I64, I64]]:
    """(earlier, later) of all pairs with equal keys and different roots at the positions `small`, a
    few million at a time."""
    held: list[I64] = []
    for distance in range(1, _MAX_GROUP_ALL_PAIRS):
        at = small[: len(small) - distance]
        at = at[keys[at] == keys[small[distance:]]]
        if not len(at):
            break
        at = at[roots[at] != roots[at + distance]]
        held.append(np.stack([numbers[at], numbers[at + distance]]))
        if sum(pairs.shape[1] for pairs in held) > _PAIRS_HELD:
            left, right = np.concatenate(held, axis=1)
            yield left, right
            held = []
    if held:
        left, right = np.concatenate(held, axis=1)
        yield left, right


def _are_similar(
    left: I64, right: I64, signatures_of: Callable[[I64], U64], min_similarity: float
) -> npt.NDArray[np.bool_]:
    result = np.empty(len(left), dtype=bool)
    for at in range(0, len(left), _PAIRS_AT_ONCE):
        chunk = slice(at, at + _PAIRS_AT_ONCE)
        signed = signatures_of(np.concatenate([left[chunk], right[chunk]]))
        estimate = similarity(*np.split(signed, 2))
        result[chunk] = estimate >= min_similarity
    return result
