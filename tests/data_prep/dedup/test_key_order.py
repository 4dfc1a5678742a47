"""Orders of keys and recurring keys are those of a plain sort, whatever the runs and the pieces."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.dedup import key_order as module
from data_prep.dedup.key_order import HIGHEST_KEY, key_order, recurring
from data_prep.text.batch import U64

RANGES = [
    (0, HIGHEST_KEY),
    (0, 0),
    (HIGHEST_KEY, HIGHEST_KEY),
    (HIGHEST_KEY - 2, HIGHEST_KEY),
    (5, 300),
    (1 << 40, (1 << 63) + 12345),
]


def made(seed: int, count: int, low: int, high: int, num_hot: int) -> U64:
    """Keys from `low` to `high`, both included, some of them often."""
    generate = np.random.default_rng(seed)
    keys = generate.integers(low, high, count, dtype=np.uint64, endpoint=True)
    if count:
        keys[:2] = low, high
        again = generate.random(count) < 0.4
        keys[again] = keys[generate.integers(0, count, again.sum())]
        keys[generate.integers(0, count, num_hot)] = high
    return keys


@given(st.integers(0, 1000), st.integers(2, 400), st.sampled_from(RANGES))
def test_the_order_of_keys_is_that_of_a_stable_sort(
    seed: int, count: int, ends: tuple[int, int]
) -> None:
    keys = made(seed, count, *ends, num_hot=20)
    expected = np.argsort(keys, kind="stable")
    np.testing.assert_array_equal(key_order(keys, *ends), expected)
    np.testing.assert_array_equal(key_order(keys), expected)


@settings(max_examples=200)
@given(
    st.integers(0, 1000),
    st.sampled_from([0, 2, 3, 50, 400]),
    st.integers(1, 9),
    st.sampled_from(RANGES),
    st.sampled_from([0, 5, 100]),
    st.sampled_from([1, 3, 16, 1 << 18]),
)
def test_recurring_keys_are_those_of_a_plain_sort(
    seed: int, count: int, num_runs: int, ends: tuple[int, int], num_hot: int, at_once: int
) -> None:
    keys = made(seed, count, *ends, num_hot)
    cuts = np.sort(np.random.default_rng(seed).integers(0, count + 1, num_runs - 1))
    starts = np.array([0, *cuts, count], dtype=np.int64)
    for start, end in pairwise(starts):
        keys[start:end] = np.sort(keys[start:end])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "KEYS_AT_ONCE", at_once)
        pieces = list(recurring(keys, starts, *ends))
    found = np.concatenate([np.empty(0, np.int64), *pieces])
    order = np.argsort(keys, kind="stable")
    _, counts = np.unique(keys, return_counts=True)
    np.testing.assert_array_equal(found, order[np.repeat(counts > 1, counts)])
    filled = [keys[piece] for piece in pieces if len(piece)]
    assert all(one[-1] < other[0] for one, other in pairwise(filled))
    if at_once < 50 < count and ends[1] - ends[0] > 100:
        assert len(pieces) > 3
