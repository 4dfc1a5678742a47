"""Reads of many places of a file, some of them together."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.readers import files, gzip_starts
from data_prep.readers.files import in_windows
from tests.data_prep.readers.compressed_parts import WRITERS

CONTENT = bytes(range(200))


def read_at(at: int, num_bytes: int) -> bytes:
    return CONTENT[at : at + num_bytes]


@given(st.lists(st.tuples(st.integers(0, 220), st.integers(0, 90)), max_size=20))
def test_reads_give_the_same_alone_and_together(places: list[tuple[int, int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_WINDOW_BYTES", 64)
        patch.setattr(files, "_NEAR_BYTES", 16)
        read = in_windows(read_at)
        assert [read(*place) for place in places] == [read_at(*place) for place in places]


def test_near_places_are_read_together_and_distant_ones_alone() -> None:
    sizes = []

    def counted(at: int, num_bytes: int) -> bytes:
        sizes.append(num_bytes)
        return bytes(num_bytes)

    read = in_windows(counted)
    for at in range(0, 10 << 20, 1 << 10):
        read(at, 3)
    assert len(sizes) < 12
    sizes.clear()
    for at in range(20 << 20, 120 << 20, 2 << 20):
        read(at, 3)
    assert sizes == [3] * 50


@pytest.mark.parametrize("window_bytes", range(1, 60, 7))
def test_members_are_found_wherever_windows_end(
    monkeypatch: pytest.MonkeyPatch, window_bytes: int
) -> None:
    content = WRITERS["gzip members"][1]([b"one two three " * n for n in range(1, 20)])

    def read(at: int, num_bytes: int) -> bytes:
        return content[at : at + num_bytes]

    expected = list(gzip_starts.gzip_starts(read, len(content), len(content)))
    assert len(expected) == 18
    monkeypatch.setattr(gzip_starts, "_WINDOW_BYTES", window_bytes)
    assert list(gzip_starts.gzip_starts(read, len(content), len(content))) == expected
