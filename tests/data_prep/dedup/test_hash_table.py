"""Hash tables on disk find what is in them and nothing else, however they were written."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.dedup import hash_table
from data_prep.dedup.hash_table import HashTable, in_range, write_hash_table

HASHES = st.lists(
    st.integers(0, (1 << 64) - 1) | st.integers(0, 40) | st.integers(2**63, 2**63 + 9)
)


@given(HASHES, HASHES, st.integers(1, 5), st.integers(0, 1000))
def test_what_was_written_is_found(tmp_path_factory, held, others, ranges, extra):
    folder = tmp_path_factory.mktemp("table")
    held = np.unique(np.array(held, dtype=np.uint64))
    values = held * np.uint64(3)
    table = np.stack([held, values])
    pieces = (table[:, in_range(held, number, ranges)] for number in range(ranges))
    length, names = write_hash_table(folder, "some", pieces, 2, len(held) + extra)
    assert length == len(held)
    assert sorted(names) == sorted(path.name for path in folder.iterdir())
    asked = np.concatenate([np.array(others, dtype=np.uint64), held, held[::-1]])
    found = HashTable(folder, "some")
    positions, places = found.find(asked)
    expected = np.flatnonzero(np.isin(asked, held))
    np.testing.assert_array_equal(positions, expected)
    np.testing.assert_array_equal(found.values[places], asked[expected] * np.uint64(3))


@pytest.mark.parametrize("bits", [1, 3])
def test_a_search_tells_what_the_slots_do_not(tmp_path, monkeypatch, bits):
    monkeypatch.setattr(hash_table, "_MAX_SLOT_BITS", bits)
    held = np.random.default_rng(0).integers(0, 1 << 64, 500, dtype=np.uint64)
    held.sort()
    write_hash_table(tmp_path, "some", [held[None]], 1, 500)
    table = HashTable(tmp_path, "some")
    assert table.values is None
    positions, _ = table.find(np.concatenate([held + np.uint64(1), held]))
    np.testing.assert_array_equal(positions, np.arange(500, 1000))
