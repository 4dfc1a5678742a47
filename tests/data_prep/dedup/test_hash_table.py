"""Hash tables on disk find what is in them and nothing else, whatever the pieces."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from data_prep.dedup.hash_ranges import in_range
from data_prep.dedup.hash_table import HashTable, write_hash_table
from data_prep.text.batch import U64

HIGHEST = (1 << 64) - 1
HASHES = st.lists(
    st.integers(0, HIGHEST)
    | st.integers(0, 40)
    | st.integers(2**63, 2**63 + 9)
    | st.integers(HIGHEST - 9, HIGHEST)
)


def random_hashes(number: int) -> U64:
    """So many, ascending."""
    return np.sort(np.random.default_rng(0).integers(0, 1 << 64, number, dtype=np.uint64))


@given(HASHES, HASHES, st.sampled_from([1, 2, 4, 16]), st.integers(1, 5), st.integers(0, 1000))
@example([0, HIGHEST], [1, HIGHEST - 1], 16, 1, 0)
def test_what_was_written_is_found(
    tmp_path_factory: pytest.TempPathFactory,
    values_held: list[int],
    absent: list[int],
    num_ranges: int,
    num_pieces: int,
    extra: int,
) -> None:
    folder = tmp_path_factory.mktemp("table")
    held = np.unique(np.array(values_held, dtype=np.uint64))
    table = np.stack([held, held * np.uint64(3)])
    names = []
    for number in range(num_ranges):
        first = number * num_pieces
        pieces = [
            table[:, in_range(held, first + k, num_ranges * num_pieces)] for k in range(num_pieces)
        ]
        expected = sum(piece.shape[1] for piece in pieces)
        name = f"some-{number}"
        length, files = write_hash_table(folder, name, pieces, 2, expected + extra, num_ranges)
        assert length == expected
        assert sorted(files) == sorted(path.name for path in folder.glob(f"{name}.*"))
        names.append(name)
    asked = np.concatenate([np.array(absent, dtype=np.uint64), held, held[::-1]])
    expected_positions = np.flatnonzero(np.isin(asked, held))
    for window_bytes in (1 << 26, 100):
        positions, values = HashTable(folder, names, window_bytes).find(asked)
        np.testing.assert_array_equal(positions, expected_positions)
        np.testing.assert_array_equal(values, asked[positions] * np.uint64(3))


@pytest.mark.parametrize("bits", [6, 9])
def test_hashes_that_share_a_slot_are_searched(tmp_path: Path, bits: int) -> None:
    held = random_hashes(500)
    write_hash_table(tmp_path, "some", [held[None]], 1, 500, max_slot_bits=bits)
    assert (tmp_path / "some.slots.u64").stat().st_size == 2**bits // 8
    table = HashTable(tmp_path, ["some"])
    positions, values = table.find(np.concatenate([held + np.uint64(1), held]))
    np.testing.assert_array_equal(positions, np.arange(500, 1000))
    assert not values.any()


def test_hashes_of_a_large_table_are_found_in_their_order(tmp_path: Path) -> None:
    held = random_hashes(1 << 21)
    write_hash_table(tmp_path, "some", [np.stack([held, ~held])], 2, len(held))
    asked = np.random.default_rng(1).permutation(held)[:1000]
    for window_bytes in (1 << 26, 1 << 20):
        positions, values = HashTable(tmp_path, ["some"], window_bytes).find(asked)
        np.testing.assert_array_equal(positions, np.arange(1000))
        np.testing.assert_array_equal(values, ~asked)


def test_a_process_has_one_window_of_a_table_in_memory(tmp_path: Path) -> None:
    held = random_hashes(1 << 22)
    for number, name in enumerate(("low", "high")):
        part = held[in_range(held, number, 2)]
        write_hash_table(tmp_path, name, [part[None]], 1, len(part), num_ranges=2)
    asked = np.random.default_rng(1).permutation(held)[: 1 << 19]
    write_hash_table(tmp_path, "whole", [held[None]], 1, len(held))

    def file_bytes() -> int:
        (line,) = [
            line
            for line in Path("/proc/self/status").read_text().splitlines()
            if line.startswith("RssFile:")
        ]
        return int(line.split()[1]) * 1024

    before = file_bytes()
    whole = HashTable(tmp_path, ["whole"], 1 << 30)
    assert len(whole.find(asked)[0]) == len(asked)
    assert file_bytes() - before > 0.9 * held.nbytes  # what this test can see
    del whole
    before = file_bytes()
    cut = HashTable(tmp_path, ["low", "high"], 1 << 22)
    assert len(cut.find(asked)[0]) == len(asked)
    assert file_bytes() - before < 0.2 * held.nbytes
