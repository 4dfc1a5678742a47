"""Hash tables on disk find what is in them and nothing else, whatever the pieces."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.dedup.hash_ranges import in_range
from data_prep.dedup.hash_table import HashTable, write_hash_table

HASHES = st.lists(
    st.integers(0, (1 << 64) - 1) | st.integers(0, 40) | st.integers(2**63, 2**63 + 9)
)


@given(HASHES, HASHES, st.integers(1, 5), st.integers(0, 1000))
def test_what_was_written_is_found(
    tmp_path_factory: pytest.TempPathFactory,
    values_held: list[int],
    absent: list[int],
    ranges: int,
    extra: int,
) -> None:
    folder = tmp_path_factory.mktemp("table")
    held = np.unique(np.array(values_held, dtype=np.uint64))
    values = held * np.uint64(3)
    table = np.stack([held, values])
    pieces = (table[:, in_range(held, number, ranges)] for number in range(ranges))
    length, names = write_hash_table(folder, "some", pieces, 2, len(held) + extra)
    assert length == len(held)
    assert sorted(names) == sorted(path.name for path in folder.iterdir())
    asked = np.concatenate([np.array(absent, dtype=np.uint64), held, held[::-1]])
    found = HashTable(folder, "some")
    positions, places = found.find(asked)
    expected = np.flatnonzero(np.isin(asked, held))
    np.testing.assert_array_equal(positions, expected)
    assert found.values is not None
    np.testing.assert_array_equal(found.values[places], asked[expected] * np.uint64(3))


@pytest.mark.parametrize("bits", [1, 3])
def test_hashes_that_share_a_slot_are_searched(tmp_path: Path, bits: int) -> None:
    held = np.random.default_rng(0).integers(0, 1 << 64, 500, dtype=np.uint64)
    held.sort()
    write_hash_table(tmp_path, "some", [held[None]], 1, 500, max_slot_bits=bits)
    table = HashTable(tmp_path, "some")
    assert table.values is None
    positions, _ = table.find(np.concatenate([held + np.uint64(1), held]))
    np.testing.assert_array_equal(positions, np.arange(500, 1000))
