"""Choosing positions of rows by random words.

n rows, R tokens in a row, K label slots of a row.
"""

import numpy as np
from numpy.typing import NDArray

_LAST_KEY = np.uint32(0xFFFFFFFF)


def choose_positions(
    words: NDArray[np.uint32],
    maskable: NDArray[np.bool_],
    num_chosen: NDArray[np.int64],
    num_slots: int,
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """([n, K] ascending positions, [n, K] which slots are used): a uniform choice without return.

    The `num_chosen[i]` maskable positions with the smallest `words` [n, R] are chosen. The low bits
    of a word are replaced by its position, which makes sorting words an argsort; the random bits
    left (23 of 32 at 512 tokens, 19 at 8192) make ties too rare to shift any share by 1e-5.
    """
    row_tokens = words.shape[1]
    position_bits = np.uint32((1 << max(1, (row_tokens - 1).bit_length())) - 1)
    keys = (words & ~position_bits) | np.arange(row_tokens, dtype=np.uint32)
    keys[~maskable] = _LAST_KEY
    if num_slots < row_tokens:
        keys = np.partition(keys, num_slots - 1, axis=1)[:, :num_slots]
    keys = np.sort(keys, axis=1)
    used = np.arange(num_slots) < num_chosen[:, None]
    positions = (keys & position_bits).astype(np.int64)
    positions[~used] = row_tokens  # after all others
    positions.sort(axis=1)
    positions[~used] = 0
    return positions, used


def positions_of(
    chosen: NDArray[np.bool_], num_slots: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """([n, K] ascending positions, [n, K] which slots are used) of `chosen` [n, R], K at most."""
    num_chosen = np.minimum(chosen.sum(axis=1), num_slots)
    positions = np.argsort(~chosen, axis=1, kind="stable")[:, :num_slots]
    used = np.arange(num_slots) < num_chosen[:, None]
    return np.where(used, positions, 0), used


def round_half_up(value: float) -> int:
    """The nearest integer to a `value` >= 0, halves going up (Python's round goes to even)."""
    return int(np.floor(value + 0.5))


def round_half_up_array(
    rate: float | NDArray[np.floating], counts: NDArray[np.integer]
) -> NDArray[np.int64]:
    """[n] the nearest integers to rate x counts, by the same rule as `round_half_up`."""
    return np.floor(rate * counts + 0.5).astype(np.int64)
