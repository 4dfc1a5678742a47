"""Masked rows: a pure function of (seed, pass, source, row), with the promised distribution."""

import numpy as np
import pytest
from numpy.typing import NDArray

from model.objectives import MaskedLanguageModelConfig, MaskedRows, RowsToMask
from model.objectives.philox import row_words

VOCAB_SIZE = 1000
MASK = VOCAB_SIZE - 1


def some_rows(num_rows: int, row_tokens: int = 128) -> NDArray[np.uint16]:
    rows = np.random.default_rng(5).integers(4, MASK, (num_rows, row_tokens)).astype(np.uint16)
    rows[:, 0], rows[:, -1] = 0, 2
    rows[:, 40] = 3  # <unk>
    rows[::2, 100:] = 1  # padding
    return rows


def masked(
    rows: NDArray[np.uint16],
    numbers: NDArray[np.int64] | None = None,
    seed: int = 1,
    pass_number: int = 0,
) -> MaskedRows:
    numbers = np.arange(len(rows)) if numbers is None else numbers
    objective = MaskedLanguageModelConfig().build(VOCAB_SIZE)
    passes = np.full(len(rows), pass_number)
    return objective.mask_rows(RowsToMask(rows, seed, passes, numbers))


def test_a_row_is_masked_alike_in_any_batch() -> None:
    rows = some_rows(50)
    whole = masked(rows)
    order = np.random.default_rng(0).permutation(50)
    for part in (order[:1], order[1:20], order[20:]):
        some = masked(rows[part], part)
        np.testing.assert_array_equal(some.tokens, whole.tokens[part])
        np.testing.assert_array_equal(some.positions, whole.positions[part])
        np.testing.assert_array_equal(some.labels, whole.labels[part])


def test_seed_pass_source_and_row_each_change_the_masks() -> None:
    rows = np.repeat(some_rows(1), 2, axis=0)
    first = masked(rows[:1], np.array([7]))
    others = [
        masked(rows[:1], np.array([8])),
        masked(rows[:1], np.array([7]), seed=2),
        masked(rows[:1], np.array([7]), pass_number=1),
        MaskedLanguageModelConfig()
        .build(VOCAB_SIZE)
        .mask_rows(RowsToMask(rows[:1], 1, np.zeros(1, int), np.array([7]), sources=np.array([1]))),
    ]
    for other in others:
        assert not np.array_equal(first.positions, other.positions)


def test_words_are_those_of_numpys_philox_at_the_row_counter() -> None:
    numbers = np.array([3, 0, 3, 10**12, 4])
    zeros = np.zeros(5, int)
    words = row_words(7, seed=9, passes=zeros + 2, sources=zeros + 5, row_numbers=numbers)
    for number, row in zip(numbers.tolist(), words, strict=True):
        key = 9 | 2 << 64 | 5 << 96
        expected = np.random.Philox(key=key, counter=number << 32).random_raw(7)
        np.testing.assert_array_equal(row, expected)


def test_masks_never_change_between_versions() -> None:
    result = masked(np.arange(4, 36, dtype=np.uint16)[None], np.array([123456789]), seed=42)
    assert result.positions.tolist() == [GOLDEN_POSITIONS]
    assert result.tokens[0, result.positions[0]].tolist() == GOLDEN_TOKENS


GOLDEN_POSITIONS = [3, 11, 21, 27, 28]
GOLDEN_TOKENS = [636, 15, 999, 999, 962]


def test_exactly_the_share_of_ordinary_tokens_is_chosen() -> None:
    rows = some_rows(64)
    result = masked(rows)
    ordinary = (rows > 3) & (rows < MASK)
    expected = np.floor(0.15 * ordinary.sum(axis=1) + 0.5)
    np.testing.assert_array_equal((result.labels >= 0).sum(axis=1), expected)
    assert result.positions.shape == (64, 19)  # 0.15 x 128, whatever the rows hold
    for row, positions, labels, tokens in zip(
        rows, result.positions, result.labels, result.tokens, strict=True
    ):
        used = labels >= 0
        chosen = positions[used]
        assert (np.diff(chosen) > 0).all()
        assert ordinary[0].size == len(row)
        assert ((row[chosen] > 3) & (row[chosen] < MASK)).all()
        np.testing.assert_array_equal(labels[used], row[chosen])
        untouched = np.setdiff1d(np.arange(len(row)), chosen)
        np.testing.assert_array_equal(tokens[untouched], row[untouched])
        assert not positions[~used].any()


def test_choice_is_uniform_and_replacements_are_80_10_10() -> None:
    row = np.full((1, 66), 500, np.uint16)
    row[0, 0], row[0, -1] = 0, 2
    num_rows = 40_000
    result = masked(np.repeat(row, num_rows, axis=0))
    used = result.labels >= 0
    counts = np.bincount(result.positions[used], minlength=66)[1:-1]
    expected = used.sum() / 64
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < 63 + 5 * np.sqrt(2 * 63)
    new = np.take_along_axis(result.tokens, result.positions, axis=1)[used]
    total = len(new)
    is_mask, is_kept = new == MASK, new == 500
    random = new[~is_mask & ~is_kept]
    for share, expected_share in (
        (is_mask.mean(), 0.8),
        (is_kept.mean(), 0.1 + 0.1 / (MASK - 4)),
        (len(random) / total, 0.1),
    ):
        assert share == pytest.approx(expected_share, abs=5 * np.sqrt(0.16 / total))
    assert random.min() >= 4
    assert random.max() < MASK
    per_id = np.bincount(random, minlength=MASK)[4:]
    per_id = np.delete(per_id, 500 - 4)
    mean = per_id.mean()
    assert ((per_id - mean) ** 2 / mean).sum() < len(per_id) + 5 * np.sqrt(2 * len(per_id))


def test_a_row_without_ordinary_tokens_is_left_alone() -> None:
    rows = np.ones((1, 32), np.uint16)
    result = masked(rows)
    np.testing.assert_array_equal(result.tokens, rows)
    assert (result.labels == -100).all()


def test_ids_outside_of_the_vocabulary_are_an_error() -> None:
    rows = some_rows(3)
    rows[2, 5] = VOCAB_SIZE
    with pytest.raises(ValueError, match="row 2 of the batch holds the id 1000"):
        masked(rows)
