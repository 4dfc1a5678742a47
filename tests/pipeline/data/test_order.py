"""The row order: every row once a pass, shares kept, independent of the chunks it is read in."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from configs.load import ConfigError
from pipeline.data.config import DataConfig
from pipeline.data.interleave import interleave, rows_per_source
from pipeline.data.order import RowOrder, SourceSize, build_order, mixture_weights

SOURCES = [SourceSize("a", 1000, 64), SourceSize("b", 130, 64), SourceSize("c", 7, 64)]


def small_windows(
    segments: Sequence[tuple[int, Mapping[str, float] | None]],
    seed: int,
    sources: Sequence[SourceSize] = SOURCES,
) -> RowOrder:
    """An order whose windows have 256 rows."""
    return build_order(sources, segments, seed, window_rows=256)


def test_every_row_comes_once_a_pass() -> None:
    row_order = small_windows([(0, {"a": 2.0, "b": 1.0, "c": 0.1})], seed=3)
    address = row_order.rows_at(np.arange(5000))
    for number, size in enumerate(row_order.sources):
        mine = address.source == number
        passes = address.passes[mine]
        assert (np.diff(passes) >= 0).all()
        for pass_number in range(passes[-1]):
            rows = address.row[mine][passes == pass_number]
            assert sorted(rows) == list(range(size.rows))


def test_without_weights_one_pass_over_everything_takes_each_source_once() -> None:
    row_order = small_windows([(0, None)], seed=3)
    address = row_order.rows_at(np.arange(1137))
    counts = np.bincount(address.source)
    assert np.abs(counts - [1000, 130, 7]).max() <= 1


def test_an_exponent_raises_the_shares_of_small_sources() -> None:
    data = DataConfig.model_validate({"path": "rows", "sampling_exponent": 0.5})
    sources = [*SOURCES, SourceSize("empty", 0, 64)]
    weights = mixture_weights(data, sources)
    assert weights == pytest.approx(
        {"a": 31.6227766, "b": 11.4017543, "c": 2.64575131, "empty": 0.0}
    )
    source = small_windows([(0, weights)], 3, sources).rows_at(np.arange(4567)).source
    assert np.bincount(source) == pytest.approx([3162, 1140, 265], abs=1)
    by_rows = DataConfig.model_validate({"path": "rows"})
    assert mixture_weights(by_rows, SOURCES) is None
    with pytest.raises(ValueError, match="weights and sampling_exponent exclude each other"):
        DataConfig.model_validate({**data.model_dump(), "weights": {"a": 1.0}})


def test_the_order_does_not_depend_on_the_chunks_it_is_read_in() -> None:
    row_order = small_windows([(0, {"a": 1, "b": 5, "c": 0})], seed=1)
    whole = row_order.rows_at(np.arange(3000))
    shuffled = np.random.default_rng(0).permutation(3000)
    parts = [row_order.rows_at(part) for part in np.array_split(shuffled, 37)]
    assert (np.concatenate([p.row for p in parts]) == whole.row[shuffled]).all()
    assert (np.concatenate([p.source for p in parts]) == whole.source[shuffled]).all()
    assert (np.concatenate([p.passes for p in parts]) == whole.passes[shuffled]).all()


def test_passes_seeds_and_sources_are_ordered_differently() -> None:
    first = small_windows([(0, None)], 1, SOURCES[:1]).rows_at(np.arange(2000)).row
    other = small_windows([(0, None)], 2, SOURCES[:1]).rows_at(np.arange(1000)).row
    assert (first[:1000] != first[1000:]).mean() > 0.9
    assert (first[:1000] != other).mean() > 0.9


def test_a_window_is_read_before_the_next_one() -> None:
    rows = small_windows([(0, None)], 1, SOURCES[:1]).rows_at(np.arange(1000)).row
    assert len({row // 64 for row in rows[:200]}) <= 4
    assert (np.diff(rows[:256]) == 1).mean() < 0.1


def test_interleave_keeps_every_share_in_every_range() -> None:
    shares = [500_000, 300_000, 200_000, 48_576]
    source, index = interleave(np.arange(10_000), shares)
    for number, share in enumerate(shares):
        counted = np.cumsum(source == number)
        expected = np.arange(1, 10_001) * share / sum(shares)
        assert np.abs(counted - expected).max() < len(shares)
        assert (index[source == number] == np.arange(counted[-1])).all()


def test_far_positions_are_exact() -> None:
    far = 10**12
    near_source, near_index = interleave(np.arange(100), [3, 5])
    source, index = interleave(np.arange(far * 8, far * 8 + 100), [3, 5])
    assert (source == near_source).all()
    assert (index - near_index == np.where(source == 0, far * 3, far * 5)).all()


def test_the_order_never_changes_between_releases() -> None:
    address = small_windows([(0, {"a": 2.0, "b": 1.0, "c": 0.1})], seed=3).rows_at(np.arange(8))
    assert address.source.tolist() == GOLDEN_SOURCE
    assert address.row.tolist() == GOLDEN_ROW


GOLDEN_SOURCE = [2, 0, 1, 0, 0, 1, 0, 0]
GOLDEN_ROW = [6, 303, 7, 63, 525, 69, 283, 275]


def test_new_weights_continue_where_the_old_ones_ended() -> None:
    first, then = {"a": 3, "b": 1, "c": 1}, {"a": 1, "b": 0, "c": 4}
    changed = small_windows([(0, first), (700, then)], seed=3)
    whole = changed.rows_at(np.arange(2000))
    before = small_windows([(0, first)], seed=3).rows_at(np.arange(700))
    assert (whole.row[:700] == before.row).all()
    assert (whole.source[:700] == before.source).all()
    assert not (whole.source[700:] == 1).any()
    assert np.abs(np.bincount(whole.source[700:]) - [260, 0, 1040]).max() <= 1
    for number, size in enumerate(changed.sources):
        mine = whole.source == number
        assert (np.diff(whole.passes[mine]) >= 0).all()
        for pass_number in range(whole.passes[mine][-1]):
            rows = whole.row[mine][whole.passes[mine] == pass_number]
            assert sorted(rows) == list(range(size.rows))


def test_counts_of_a_range_are_those_of_its_positions() -> None:
    for shares in ([5, 3, 2], [1, 0, 7], [0, 0, 4], [9]):
        for length in (0, 1, 17, 1000):
            source, _ = interleave(np.arange(length), shares)
            counts = np.bincount(source, minlength=len(shares))
            assert (rows_per_source(length, shares) == counts).all()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"a": 1, "b": 1, "c": 1, "d": 1}, "unknown sources \\['d'\\]"),
        ({"a": 1}, "without a weight \\['b', 'c'\\]"),
        ({"a": -1, "b": 1, "c": 1}, "must be >= 0"),
        ({"a": 0, "b": 0, "c": 0}, "not all 0"),
    ],
)
def test_bad_weights_are_named(weights: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small_windows([(0, weights)], seed=0)


def test_the_window_decides_the_order_inside_a_pass() -> None:
    """The default window holds all rows of small sources."""
    positions = np.arange(1000)
    default = build_order(SOURCES[:1], [(0, None)], seed=1).rows_at(positions).row
    small = small_windows([(0, None)], 1, SOURCES[:1]).rows_at(positions).row
    assert (default != small).mean() > 0.9
    assert sorted(default) == sorted(small) == list(range(1000))
