"""The order of 64-bit keys, and which of them recur: sorts of what fits a processor's cache."""

from collections.abc import Iterator

import numpy as np

from data_prep.kernels.joins import bounds_in_runs, recurring_keys
from data_prep.text.batch import I64, U64
from data_prep.text.ranges import ranges

KEYS_AT_ONCE = 1 << 16
"""Keys that are looked at together, about: their slots take 0.7 MB."""
_SLOTS_PER_KEY = 4
HIGHEST_KEY = (1 << 64) - 1


def key_order(keys: U64, low: int = 0, high: int = HIGHEST_KEY) -> I64:
    """The positions of `keys`, from `low` to `high`, in ascending order; of equal ones the earlier
    position first."""
    shift = max((high - low).bit_length() - 16, 0)
    prefixes = ((keys - np.uint64(low)) >> np.uint64(shift)).astype(np.uint16)
    # numpy sorts 16 bits by radix, and what is nearly sorted in few comparisons.
    order: I64 = np.argsort(prefixes, kind="stable")
    return order[np.argsort(keys[order], kind="stable")]


def recurring(keys: U64, starts: I64, low: int, high: int) -> Iterator[I64]:
    """The positions of the keys that occur in `keys` at least twice, ascending by key and position;
    some keys at a time, all positions of a key together.

    `keys` are runs, each ascending, which start at `starts` [runs + 1], the last of which is the
    end; all of them are from `low` to `high`. The time for a key depends neither on how many keys
    there are nor on the number of runs.
    """
    yield from _in_range(keys, starts[:-1], starts[1:], low, high)


def _in_range(keys: U64, starts: I64, ends: I64, low: int, high: int) -> Iterator[I64]:
    """Those of the keys from `starts` to `ends` [runs]."""
    num_keys = int((ends - starts).sum())
    if num_keys < 2:
        return
    if low == high:
        yield ranges(starts, ends)
        return
    if num_keys <= 2 * KEYS_AT_ONCE:
        slot_bits = (_SLOTS_PER_KEY * num_keys).bit_length()
        shift = max((high - low).bit_length() - slot_bits, 0)
        numbers = (np.uint64(number) for number in (low, slot_bits, shift))
        yield recurring_keys(keys, starts, ends, *numbers)
        return
    num_pieces = min(num_keys // KEYS_AT_ONCE, high - low + 1)
    edges = [low + (high - low + 1) * number // num_pieces for number in range(num_pieces + 1)]
    inner = np.array(edges[1:-1], dtype=np.uint64)
    inside = bounds_in_runs(keys, starts, ends, inner).reshape(-1, len(starts))
    bounds = np.concatenate([starts[None], inside, ends[None]])
    for number in range(num_pieces):
        first, last = edges[number], edges[number + 1] - 1
        yield from _in_range(keys, bounds[number], bounds[number + 1], first, last)
