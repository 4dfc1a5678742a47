"""The source of each position of the stream, by exact integer arithmetic in O(1) a position."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]


def interleave(positions: Int64, shares: Sequence[int]) -> tuple[Int64, Int64]:
    """The source of every position [n], and which row of that source it is, counting from 0.

    Nested floors: of the first k positions, floor(k * share / total) belong to the first source;
    the remaining positions are renumbered from 0 and divided among the remaining sources in the
    same way. Any range of positions holds every source in its share, within one row a split.
    """
    source = np.empty_like(positions)
    index = positions.copy()
    undecided = np.arange(len(positions))
    for number, share, total in _splits(shares):
        at = index[undecided]
        before = _floor_share(at, share, total)
        taken = _floor_share(at + 1, share, total) > before
        source[undecided[taken]] = number
        index[undecided[taken]] = before[taken]
        index[undecided[~taken]] -= before[~taken]
        undecided = undecided[~taken]
    assert not len(undecided)
    return source, index


def rows_per_source(length: int, shares: Sequence[int]) -> Int64:
    """How many of the first `length` positions `interleave` assigns to each source."""
    counts = np.zeros(len(shares), dtype=np.int64)
    for number, share, total in _splits(shares):
        counts[number] = length * share // total
        length -= int(counts[number])
    return counts


def _splits(shares: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """(source, its share, sum of its share and all later ones) of each source that has a share."""
    total = sum(shares)
    for number, share in enumerate(shares):
        if share:
            yield number, share, total
            total -= share


def _floor_share(positions: Int64, share: int, total: int) -> Int64:
    """floor(position * share / total), without overflow for positions up to 2^42."""
    whole, rest = np.divmod(positions, total)
    result: Int64 = whole * share + rest * share // total
    return result
