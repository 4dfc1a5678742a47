"""The curve of a metric over any number of steps, in bounded memory.

Neighbouring steps share a bucket, which keeps their mean, least and greatest value: a spike of one
step stays visible in a run of a million. A run of up to `MAX_BUCKETS` steps is kept as it is.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_BUCKETS = 512
"""A power of two, about as many as a chart is wide."""

Floats = NDArray[np.float64]
Steps = NDArray[np.int64]


@dataclass(frozen=True)
class Points:
    """What a curve holds, each array [B] for its B buckets with a value, in the order of steps."""

    steps: Floats
    """Mean step of a bucket; the step itself where it is one."""
    mean: Floats
    low: Floats
    high: Floats
    num_steps: Steps
    """Steps in the bucket."""


@dataclass(frozen=True)
class Value:
    """A value and its step."""

    step: int
    value: float


class Curve:
    """The values of one metric by step; values that are not finite are only counted."""

    def __init__(self) -> None:
        self._width = 1
        self._counts = np.zeros(MAX_BUCKETS, dtype=np.int64)
        self._step_sums = np.zeros(MAX_BUCKETS)
        self._sums = np.zeros(MAX_BUCKETS)
        self._low = np.full(MAX_BUCKETS, np.inf)
        self._high = np.full(MAX_BUCKETS, -np.inf)
        self.num_not_finite = 0
        self.last: Value | None = None
        """The finite value of the greatest step."""
        self.least: Value | None = None
        """The first one of the least values."""
        self.greatest: Value | None = None

    def add(self, steps: Steps, values: Floats) -> None:
        """Adds the `values` [N] of optimizer `steps` [N], 0 and more, in any order."""
        is_finite = np.isfinite(values)
        self.num_not_finite += int((~is_finite).sum())
        steps, values = steps[is_finite], values[is_finite]
        if not steps.size:
            return
        while int(steps.max()) // self._width >= MAX_BUCKETS:
            self._halve()
        buckets = steps // self._width
        self._counts += np.bincount(buckets, minlength=MAX_BUCKETS)
        self._step_sums += np.bincount(buckets, weights=steps, minlength=MAX_BUCKETS)
        self._sums += np.bincount(buckets, weights=values, minlength=MAX_BUCKETS)
        np.minimum.at(self._low, buckets, values)
        np.maximum.at(self._high, buckets, values)
        self._note_extremes(steps, values)

    def points(self) -> Points:
        """The curve, without empty buckets."""
        used = self._counts > 0
        counts = self._counts[used]
        return Points(
            steps=self._step_sums[used] / counts,
            # A mean of equal values may differ from them by rounding.
            mean=np.clip(self._sums[used] / counts, self._low[used], self._high[used]),
            low=self._low[used],
            high=self._high[used],
            num_steps=counts,
        )

    @property
    def num_values(self) -> int:
        """Finite values."""
        return int(self._counts.sum())

    @property
    def mean(self) -> float:
        """Of all finite values; NaN without any."""
        return float(self._sums.sum() / self.num_values) if self.num_values else float("nan")

    @property
    def total(self) -> float:
        """The sum of all finite values."""
        return float(self._sums.sum())

    def _halve(self) -> None:
        """Makes the buckets twice as wide."""
        self._width *= 2
        for name, merge, empty in (
            ("_counts", np.add, 0),
            ("_step_sums", np.add, 0.0),
            ("_sums", np.add, 0.0),
            ("_low", np.minimum, np.inf),
            ("_high", np.maximum, -np.inf),
        ):
            old = getattr(self, name)
            new = np.full_like(old, empty)
            new[: MAX_BUCKETS // 2] = merge(old[::2], old[1::2])
            setattr(self, name, new)

    def _note_extremes(self, steps: Steps, values: Floats) -> None:
        def at(place: np.intp) -> Value:
            return Value(int(steps[place]), float(values[place]))

        newest, lowest, highest = at(steps.argmax()), at(values.argmin()), at(values.argmax())
        if self.last is None or newest.step >= self.last.step:
            self.last = newest
        if self.least is None or lowest.value < self.least.value:
            self.least = lowest
        if self.greatest is None or highest.value > self.greatest.value:
            self.greatest = highest
