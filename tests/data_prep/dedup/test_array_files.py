"""Arrays are read in places of files, and what is wrong with a file is said with its name."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.dataset.atomic import save_array
from data_prep.dedup import array_files
from data_prep.dedup.array_files import ArrayFiles, WindowedArray, read_part
from data_prep.engine.costs import measured_costs
from data_prep.kernels.files import read_rows
from data_prep.text.batch import I64, U64


@given(st.integers(0, 1000), st.sampled_from([1, 40, 300, 1000]), st.sampled_from([1, 2, 600]))
def test_rows_are_read_in_places(seed: int, count: int, width: int) -> None:
    generate = np.random.default_rng(seed)
    array = generate.integers(0, 1 << 64, (3000, width), dtype=np.uint64)
    places = np.sort(generate.integers(0, 3000, count))
    targets = generate.permutation(count + 5)[:count]
    with tempfile.TemporaryDirectory() as folder:
        save_array(Path(folder) / "a.npy", array)
        found = np.zeros((count + 5, width), np.uint64)
        ArrayFiles(Path(folder), 1).read_rows("a.npy", places, targets, found)
    np.testing.assert_array_equal(found[targets], array[places])
    assert not np.delete(found, targets, axis=0).any()


@pytest.mark.parametrize("at", [0, 1, 99])
def test_interrupted_reads_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """A signal may end a read of a network file system with fewer bytes, or none."""
    array = np.random.default_rng(0).integers(0, 1 << 64, (5000, 2), dtype=np.uint64)
    array[:, 0].sort()
    save_array(tmp_path / "a.npy", np.ascontiguousarray(array.T))
    save_array(tmp_path / "b.npy", array)
    num_calls = 0

    def interrupted(file: int, starts: I64, targets: I64, width: int, rows: U64) -> int:
        nonlocal num_calls
        num_calls += 1
        few = min(at, len(starts))
        return read_rows(file, starts[:few], targets[:few], width, rows)

    monkeypatch.setattr(array_files, "read_rows", interrupted)
    monkeypatch.setattr(array_files, "bounds_in_file", lambda *_: np.empty(0, np.int64))
    files = ArrayFiles(tmp_path, 2)
    places = np.arange(0, 5000, 50)
    found = np.zeros((100, 2), np.uint64)
    files.read_rows("b.npy", places, np.arange(100)[::-1].copy(), found)
    np.testing.assert_array_equal(found[::-1], array[places])
    assert num_calls > 1
    edges = np.sort(array[[3, 70, 4000], 0])
    np.testing.assert_array_equal(files.bounds("a.npy", 0, 5000, edges), [3, 70, 4000])


@pytest.mark.parametrize(
    "read",
    [
        lambda path: ArrayFiles(path.parent, 1).read_rows(
            path.name, np.array([3, 60]), np.arange(2), np.zeros((2, 14), np.uint64)
        ),
        lambda path: ArrayFiles(path.parent, 1).read(path.name, 700, np.zeros(200, np.uint64)),
        lambda path: ArrayFiles(path.parent, 1).bounds(
            path.name, 700, 200, np.array([2], np.uint64)
        ),
        lambda path: ArrayFiles(path.parent, 1).mapped(path.name),
        lambda path: WindowedArray(path, 4096),
    ],
    ids=["rows", "numbers", "bounds", "mapped", "windows"],
)
@pytest.mark.parametrize("size", [6000, 6001, 50, 0])
def test_a_file_that_ends_early_is_named(
    tmp_path: Path, size: int, read: Callable[[Path], object]
) -> None:
    save_array(tmp_path / "a.npy", np.ones((100, 14), np.uint64))
    os.truncate(tmp_path / "a.npy", size)
    expected = EOFError if size > 1000 else ValueError
    with pytest.raises(expected, match=rf"^{tmp_path}/a\.npy: "):
        read(tmp_path / "a.npy")


@pytest.mark.parametrize("size", [900, 20])
def test_a_part_of_a_file_that_ends_early_is_not_shorter(tmp_path: Path, size: int) -> None:
    save_array(tmp_path / "a.npy", np.arange(1000, dtype=np.uint32))
    np.testing.assert_array_equal(read_part(tmp_path / "a.npy", 190, 1000), np.arange(190, 1000))
    os.truncate(tmp_path / "a.npy", size)
    with pytest.raises((EOFError, ValueError), match=rf"^{tmp_path}/a\.npy: "):
        read_part(tmp_path / "a.npy", 190, 1000)


def test_a_file_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_array(tmp_path / "a.npy", np.ones((100, 14), np.uint64))
    files = ArrayFiles(tmp_path, 1)
    assert files.shape("a.npy") == (100, 14)
    descriptor = os.open(tmp_path, os.O_RDONLY)  # a folder: reading it fails
    opened = files._open["a.npy"]
    os.dup2(descriptor, opened.file.fileno())
    os.close(descriptor)
    rows, edges = np.zeros((1, 14), np.uint64), np.array([2], np.uint64)
    for read in (
        lambda: files.read_rows("a.npy", np.array([3]), np.arange(1), rows),
        lambda: files.bounds("a.npy", 0, 100, edges),
        lambda: files.read("a.npy", 0, rows),
    ):
        with pytest.raises(IsADirectoryError, match=rf"'{tmp_path}/a\.npy'$"):
            read()


@given(st.integers(0, 1000), st.sampled_from([1, 40, 3000]), st.sampled_from(["<u1", "<u4", "<i8"]))
def test_an_array_is_read_in_windows(seed: int, count: int, dtype: str) -> None:
    generate = np.random.default_rng(seed)
    array = generate.integers(0, 100, 20_000).astype(dtype)
    places = generate.integers(0, 20_000, (2, count))
    with tempfile.TemporaryDirectory() as folder:
        save_array(Path(folder) / "a.npy", array)
        windowed = WindowedArray(Path(folder) / "a.npy", 4096)
        for chosen in (places, places[0], places[:, :0], places[:, :1] % 500):
            np.testing.assert_array_equal(windowed.at(chosen), array[chosen])


def test_windows_bound_the_memory(tmp_path: Path) -> None:
    array = np.zeros(25_000_000, dtype=np.uint32)
    save_array(tmp_path / "a.npy", array)
    places = np.random.default_rng(0).integers(0, len(array), 20_000)
    del array
    with measured_costs() as few:
        WindowedArray(tmp_path / "a.npy", 1 << 20).at(places)
    with measured_costs() as at_once:
        WindowedArray(tmp_path / "a.npy", 1 << 30).at(places)
    assert at_once.peak_bytes - few.peak_bytes > 50_000_000
