"""Curves keep their spikes, their extremes and their means in bounded memory."""

import numpy as np
import pytest

from pipeline.reporting.curve import MAX_BUCKETS, Curve
from pipeline.reporting.positions import Positions


def curve_of(values: np.ndarray, first: int = 1, chunk: int = 1000) -> Curve:
    curve = Curve()
    steps = np.arange(first, first + len(values))
    for start in range(0, len(values), chunk):
        curve.add(steps[start : start + chunk], values[start : start + chunk])
    return curve


def test_a_short_run_is_kept_as_it_is() -> None:
    values = np.random.default_rng(0).normal(size=MAX_BUCKETS - 1)
    points = curve_of(values).points()
    assert points.steps.tolist() == list(range(1, MAX_BUCKETS))
    assert points.mean.tolist() == points.low.tolist() == points.high.tolist() == values.tolist()


@pytest.mark.parametrize("chunk", [1, 777, 100_000])
def test_a_spike_of_one_step_stays_visible_in_a_long_run(chunk: int) -> None:
    values = np.ones(30_000)
    values[12_345] = 99.0
    values[20_000] = -7.0
    points = curve_of(values, chunk=chunk).points()
    assert MAX_BUCKETS // 2 <= len(points.steps) <= MAX_BUCKETS
    assert points.high.max() == 99
    assert points.low.min() == -7
    place = int(points.high.argmax())
    assert abs(points.steps[place] - 12_346) < points.num_steps[place]
    assert points.num_steps.sum() == 30_000
    assert (points.mean * points.num_steps).sum() == pytest.approx(values.sum())


def test_extremes_and_last_value_are_exact() -> None:
    values = np.random.default_rng(1).normal(size=5000)
    curve = curve_of(values)
    assert curve.last is not None
    assert curve.least is not None
    assert curve.greatest is not None
    assert (curve.last.step, curve.last.value) == (5000, values[-1])
    lowest, highest = int(values.argmin()), int(values.argmax())
    assert (curve.least.step, curve.least.value) == (lowest + 1, float(values[lowest]))
    assert (curve.greatest.step, curve.greatest.value) == (highest + 1, float(values[highest]))
    assert curve.mean == pytest.approx(values.mean())


def test_values_that_are_not_finite_are_counted() -> None:
    curve = curve_of(np.array([1.0, np.nan, np.inf, 3.0]))
    assert curve.num_not_finite == 2
    assert curve.points().mean.tolist() == [1, 3]
    empty = curve_of(np.array([np.nan]))
    assert empty.last is None
    assert not empty.points().steps.size


def test_steps_far_apart() -> None:
    curve = Curve()
    curve.add(np.array([0, 1 << 53]), np.array([1.0, 2.0]))
    assert curve.points().mean.tolist() == [1, 2]


def test_positions_count_the_tokens_up_to_a_step() -> None:
    curves = {"tokens": curve_of(np.full(2000, 100.0)), "rows": curve_of(np.arange(1, 2001) * 8.0)}
    steps = np.array([1.0, 500.0, 2000.0])
    assert Positions("step", curves).of(steps).tolist() == steps.tolist()
    # ends of the axis are held at the means of the outer buckets
    assert Positions("tokens", curves).of(steps) == pytest.approx(100 * steps, abs=250)
    assert Positions("rows", curves).of(steps) == pytest.approx(8 * steps, abs=20)
    assert np.isnan(Positions("hours", curves).of(steps)).all()
