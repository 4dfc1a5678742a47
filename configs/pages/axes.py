"""The axes of a chart: which values have a tick, and how they are written."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

GREATEST = 1e100
"""Values beyond it are held at the end of an axis."""


@dataclass(frozen=True)
class Axis:
    """The values from `low` to `high`, with `ticks` inside; `low` < `high`."""

    low: float
    high: float
    ticks: tuple[float, ...]
    is_log: bool = False

    def share(self, value: float) -> float:
        """Where `value` is on the axis: 0 at its start, 1 at its end, held inside."""
        low, high = self.low, self.high
        if self.is_log:
            value = math.log(max(value, low))
            low, high = math.log(low), math.log(high)
        return min(max((value - low) / (high - low), 0.0), 1.0)


def linear_axis(values: Iterable[float], most_ticks: int = 6, from_zero: bool = False) -> Axis:
    """An axis that shows all `values` up to `GREATEST`, from 0 to 1 where there are none."""
    finite = [value for value in values if abs(value) <= GREATEST]
    if from_zero:
        finite.append(0.0)
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    if low == high:
        low, high = low - (abs(low) or 1) * 0.5, high + (abs(high) or 1) * 0.5
    step = _nice_step((high - low) / most_ticks)
    first, last = math.floor(low / step), math.ceil(high / step)
    ticks = tuple(number * step for number in range(first, last + 1))
    return Axis(ticks[0], ticks[-1], ticks)


def tight_axis(low: float, high: float, most_ticks: int = 6) -> Axis:
    """An axis from exactly `low` to `high`, with ticks at round numbers between them."""
    low, high = (min(GREATEST, max(-GREATEST, end)) for end in (low, high))  # NaN: -GREATEST
    if low >= high:
        low, high = low - (abs(low) or 1) * 0.5, low + (abs(low) or 1) * 0.5
    step = _nice_step((high - low) / most_ticks)
    first, last = math.ceil(low / step), math.floor(high / step)
    return Axis(low, high, tuple(number * step for number in range(first, last + 1)))


def log_axis(values: Iterable[float]) -> Axis | None:
    """A logarithmic axis that shows all positive finite `values`; None where there are none."""
    positive = [value for value in values if 1 / GREATEST <= value <= GREATEST]
    if not positive:
        return None
    first = math.floor(math.log10(min(positive)) + 1e-9)
    last = max(math.ceil(math.log10(max(positive)) - 1e-9), first + 1)
    factors = (1, 2, 5) if last - first <= 2 else (1,)
    stride = max(1, (last - first) // 6)
    ticks = [f * 10.0**p for p in range(first, last, stride) for f in factors] + [10.0**last]
    return Axis(10.0**first, 10.0**last, tuple(ticks), is_log=True)


def labels(ticks: Sequence[float]) -> list[str]:
    """The ticks as text, with as many digits as tell them apart; thousands as k, M, G."""
    greatest = max(map(abs, ticks), default=0.0)
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if greatest >= limit:
            scale = 1e3 if unit == "k" else limit
            return [f"{tick / scale:.6g}{unit}" if tick else "0" for tick in ticks]
    if 0 < greatest < 1e-3:
        return [f"{tick:.2g}" if tick else "0" for tick in ticks]
    return [f"{tick:,.6g}" for tick in ticks]


def _nice_step(least: float) -> float:
    """The least of 1, 2, 2.5 and 5 times a power of ten that is no less than `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(f * power for f in (1.0, 2.0, 2.5, 5.0, 10.0) if f * power >= least * (1 - 1e-9))
