"""95 % intervals: of shares (Wilson 1927), and of other statistics by the bootstrap (Efron 1979).

n items, B resamples.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Z_95 = 1.959964
RESAMPLES = 1000
SEED = 0
"""Of the resamples, so that equal scores give equal intervals."""


def wilson(share: float, count: int) -> tuple[float, float]:
    """The interval of a share of `count` independent items; (nan, nan) without any."""
    if not count:
        return float("nan"), float("nan")
    square = Z_95**2
    middle = (share + square / (2 * count)) / (1 + square / count)
    half = Z_95 * (share * (1 - share) / count + square / (4 * count**2)) ** 0.5
    half /= 1 + square / count
    return max(0.0, middle - half), min(1.0, middle + half)


def ratio_interval(
    numerators: NDArray[np.float64], denominators: NDArray[np.float64]
) -> tuple[float, float]:
    """The percentile interval of sum(numerators) / sum(denominators) over resampled items [n]."""

    def ratios(drawn: NDArray[np.int64]) -> NDArray[np.float64]:  # [B, n] -> [B]
        result: NDArray[np.float64] = numerators[drawn].sum(1) / denominators[drawn].sum(1)
        return result

    return _percentiles(len(numerators), ratios)


def mean_interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """The percentile interval of the mean over resampled `values` [n]."""
    return ratio_interval(values, np.ones_like(values))


def _percentiles(
    count: int, statistic: Callable[[NDArray[np.int64]], NDArray[np.float64]]
) -> tuple[float, float]:
    if count < 2:
        return float("nan"), float("nan")
    drawn = np.random.default_rng(SEED).integers(0, count, size=(RESAMPLES, count))
    low, high = np.percentile(statistic(drawn), [2.5, 97.5])
    return float(low), float(high)
