"""Costs, and the interval between checkpoints that loses least."""

import math

import numpy as np
import pytest

from pipeline.planning.accelerators import find_accelerator
from pipeline.planning.costs import (
    HOURS_OF_A_FAILURE,
    RESTART_S,
    cost_of,
    failures_of,
    save_interval,
)


def test_a_run_costs_hours_energy_and_money() -> None:
    found = cost_of(10, 1024, 50e9, 2e9, find_accelerator("h100-80gb"), 2.5)
    assert found.accelerator_hours == 10_240
    assert found.energy_kwh == pytest.approx(10_240 * 0.7)
    assert found.price == pytest.approx(25_600)
    assert found.failures.expected == pytest.approx(10_240 / HOURS_OF_A_FAILURE)
    assert found.failures.hours_between == pytest.approx(HOURS_OF_A_FAILURE / 1024)
    assert found.failures.save_s == pytest.approx(25)
    unknown = cost_of(10, 8, 1e9)
    assert unknown.energy_kwh is None
    assert unknown.price is None


@pytest.mark.parametrize(("save_s", "between_s"), [(10, 36_000), (60, 7200), (120, 1800)])
def test_no_other_interval_loses_less_in_a_simulation(save_s: float, between_s: float) -> None:
    """Training, saves and failures at random moments, an hour of restarts left out."""
    best = save_interval(save_s, between_s)

    def lost(interval: float) -> float:
        """Wall-clock seconds over seconds of training, by Daly 2006, equation 13 (without R)."""
        cycle = math.exp((interval + save_s) / between_s) - 1
        return between_s * cycle / interval

    intervals = np.linspace(best / 4, best * 4, 400)
    assert lost(best) <= min(lost(interval) for interval in intervals) * 1.001
    assert lost(best * 2) > lost(best)


def test_young_where_saves_are_short_and_the_mean_where_they_are_long() -> None:
    assert save_interval(1, 1e6) == pytest.approx(math.sqrt(2e6), rel=0.01)
    assert save_interval(100, 50) == 50


def test_more_accelerators_lose_more() -> None:
    few, many = failures_of(1e5, 64, 30), failures_of(1e5, 16_384, 30)
    assert many.interval_s < few.interval_s
    assert 0 < few.lost_share < many.lost_share < 1
    assert many.lost_share > RESTART_S / 3600 / many.hours_between
