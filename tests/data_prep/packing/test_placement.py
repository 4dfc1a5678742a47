"""Sequence packing: every id is in exactly one row, no row is too full, little padding."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.dataset.manifest import SpecialTokens
from data_prep.packing.placement import PACKERS, full_sentences_rows
from data_prep.packing.rows import placed_rows, running_rows

lengths_of = st.lists(st.integers(0, 120), max_size=60)
row_widths = st.integers(8, 64)
SPECIAL = SpecialTokens(bos=0, pad=1, eos=2, unk=3, mask=999)
I64 = npt.NDArray[np.int64]


class Stream:
    """A stream of documents in memory: ids of 10 and more, a separator after each document."""

    def __init__(self, lengths: list[int]) -> None:
        ids: list[int] = []
        self.starts: list[int] = []
        for number, length in enumerate(lengths):
            self.starts.append(len(ids))
            ids += [10 + (number * 7 + k) % 500 for k in range(length)] + [2]
        self.ids = np.array(ids, dtype=np.uint16)

    def read(self, start: int, end: int) -> npt.NDArray[Any]:
        return self.ids[start:end]

    def gather(self, starts: I64, lengths: I64) -> npt.NDArray[Any]:
        pieces = zip(starts.tolist(), lengths.tolist(), strict=True)
        return np.concatenate([self.ids[:0], *(self.ids[s : s + n] for s, n in pieces)])

    def documents(self, first: int, end: int) -> tuple[I64, I64]:
        raise NotImplementedError


@settings(max_examples=200)
@given(lengths_of, row_widths, st.sampled_from(sorted(PACKERS)))
def test_every_id_of_every_document_is_placed_once(
    lengths: list[int], row_tokens: int, mode: str
) -> None:
    stream = Stream(lengths)
    placed = PACKERS[mode](
        np.array(lengths, np.int64), np.array(stream.starts, np.int64), row_tokens
    )
    covered = np.concatenate(
        [np.arange(s, s + n) for s, n in zip(placed.start, placed.length, strict=True)]
        or [np.empty(0, int)]
    )
    text = np.flatnonzero(stream.ids != 2)
    np.testing.assert_array_equal(np.sort(covered), text)
    used = np.bincount(placed.row, placed.length + 2, minlength=placed.num_rows)
    assert (used <= row_tokens).all()
    assert (used > 2).all()
    assert (np.diff(placed.row) >= 0).all()
    rows = placed_rows(stream, placed, placed.num_rows, row_tokens, SPECIAL, "uint16")
    assert (rows[:, 0] == 0).all() if len(rows) else True
    assert sorted(rows[rows >= 10].tolist()) == sorted(stream.ids[text].tolist())
    assert (rows == 0).sum() == (rows == 2).sum() == len(placed.row)
    if mode == "doc_sentences":
        assert len(np.unique(placed.row)) == len(placed.row)


@settings(max_examples=100)
@given(lengths_of, row_widths)
def test_full_sentences_rows_hold_the_stream(lengths: list[int], row_tokens: int) -> None:
    stream = Stream(lengths)
    num_rows = full_sentences_rows(len(stream.ids), row_tokens)
    rows = running_rows(stream, 0, num_rows, row_tokens, SPECIAL)
    inner = [row[1 : row_tokens - 1 - (row == 1).sum()] for row in rows]
    joined = np.concatenate(inner) if inner else np.empty(0, np.uint16)
    np.testing.assert_array_equal(joined, stream.ids)
    assert (rows[:, 0] == 0).all()
    assert ((rows == 1).sum(axis=1)[:-1] == 0).all()
    for first in range(num_rows):
        part = running_rows(stream, first, num_rows, row_tokens, SPECIAL)
        np.testing.assert_array_equal(part, rows[first:])


@pytest.mark.parametrize("row_tokens", [128, 512, 2048, 8192])
def test_best_fit_needs_little_padding(row_tokens: int) -> None:
    generate = np.random.default_rng(0)
    lengths = generate.lognormal(5.5, 1.2, 20_000).astype(np.int64) + 1
    starts = np.cumsum(lengths + 1) - lengths - 1
    placed = PACKERS["best_fit"](lengths, starts, row_tokens)
    padding = placed.num_rows * row_tokens - (placed.length + 2).sum()
    assert padding / (placed.num_rows * row_tokens) < 0.001 + row_tokens / lengths.sum()
