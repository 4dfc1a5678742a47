"""The loops of joins find what plain Python finds."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.dedup.minhash import least_equal_bytes, similarity
from data_prep.kernels.files import bounds_in_file, read_rows
from data_prep.kernels.joins import (
    equal_bytes,
    recurring_keys,
    sets_to_compare,
    similar_in_sets,
)

HIGHEST = (1 << 64) - 1


@given(
    st.integers(0, 1000),
    st.sampled_from([0, 1, 511, 512, 513, 9000]),
    st.sampled_from([(0, HIGHEST), (0, 50), (1 << 63, (1 << 63) + (1 << 40)), (HIGHEST, HIGHEST)]),
)
def test_bounds_in_a_file_are_those_of_a_search_in_memory(
    seed: int, length: int, ends: tuple[int, int]
) -> None:
    generate = np.random.default_rng(seed)
    keys = np.sort(generate.integers(*ends, length, dtype=np.uint64, endpoint=True))
    edges = generate.integers(*ends, 5, dtype=np.uint64, endpoint=True)
    edges = np.sort(np.concatenate([edges, keys[:3], np.array([0, HIGHEST], np.uint64)]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "keys"
        path.write_bytes(b"head" * 4 + keys.tobytes())
        with open(path, "rb") as file:
            found = bounds_in_file(file.fileno(), 16, length, edges)
    np.testing.assert_array_equal(found, np.searchsorted(keys, edges))


def test_a_file_that_ends_has_no_bounds_and_no_rows(tmp_path: Path) -> None:
    (tmp_path / "keys").write_bytes(bytes(80))
    rows = np.ones(4, np.uint64)
    with open(tmp_path / "keys", "rb") as file:
        edges = np.array([5], np.uint64)
        assert len(bounds_in_file(file.fileno(), 0, 10, edges)) == 1
        assert len(bounds_in_file(file.fileno(), 0, 11, edges)) == 0
        starts = np.array([8, 64])
        assert read_rows(file.fileno(), starts, np.arange(2), 2, rows) == 2
        assert not rows.any()
        assert read_rows(file.fileno(), starts + 16, np.arange(2), 2, rows) == 0


@pytest.mark.parametrize("num_hot", [2, 31, 33, 400])
def test_other_keys_near_one_that_recurs_often_are_found(num_hot: int) -> None:
    # All of them are in one slot, more than are sorted by insertion.
    runs = [[5, 7] + [9] * (num_hot // 2), [4, 7, 8] + [9] * (num_hot - num_hot // 2) + [12]]
    keys = np.array([*runs[0], *runs[1]], dtype=np.uint64)
    starts, ends = np.array([0, len(runs[0])]), np.array([len(runs[0]), len(keys)])
    found = recurring_keys(keys, starts, ends, *(np.uint64(n) for n in (0, 3, 61)))
    assert keys[found].tolist() == [7, 7] + [9] * num_hot
    for key in (7, 9):
        assert (np.diff(found[keys[found] == key]) > 0).all()


def test_equal_bytes_are_counted_and_decide_like_the_similarity() -> None:
    generate = np.random.default_rng(0)
    left = generate.integers(0, 1 << 64, (300, 14), dtype=np.uint64)
    right = left.copy()
    changed = generate.random((300, 112)) < generate.random((300, 1))
    right.view(np.uint8)[changed] ^= generate.integers(1, 256, changed.sum(), dtype=np.uint8)
    expected = 112 - changed.sum(axis=1)
    np.testing.assert_array_equal(equal_bytes(left.ravel(), right.ravel(), 14), expected)
    to_first = (left.view(np.uint8) == left.view(np.uint8)[0]).sum(axis=1)
    for one, other in ((left[:1], left), (left, left[:1])):
        np.testing.assert_array_equal(equal_bytes(one.ravel(), other.ravel(), 14), to_first)
    for least in (0.0, 0.3, 0.75, 1.0):
        similar = similarity(left, right) >= least
        np.testing.assert_array_equal(similar, expected >= least_equal_bytes(least, 112))
    assert least_equal_bytes(1.0, 112) == 112


@given(st.integers(0, 1000), st.lists(st.integers(1, 9), max_size=12))
def test_similar_documents_of_a_set_are_those_of_all_its_pairs(seed: int, sizes: list[int]) -> None:
    generate = np.random.default_rng(seed)
    starts = np.cumsum([0, *sizes])
    roots = generate.integers(0, 3, starts[-1])
    signatures = generate.integers(0, 2, (starts[-1], 2), dtype=np.uint64)
    pairs = [
        (left, right)
        for start, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)
        for left in range(start, end)
        for right in range(left + 1, end)
        if roots[left] != roots[right]
    ]
    expected = [pair for pair in pairs if (signatures[pair[0]] == signatures[pair[1]]).all()]
    found, num_compared = similar_in_sets(starts, roots, signatures.ravel(), 2, 16)
    assert found.reshape(-1, 2).tolist() == [list(pair) for pair in expected]
    assert num_compared == len(pairs)
    differ = [len(set(some)) > 1 for some in np.split(roots, starts[1:-1])] if sizes else []
    assert sets_to_compare(starts, roots).tolist() == differ
