"""The share of a row's tokens that is masked: a number, or a schedule over the training."""

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from configs.load import Config


class LinearMaskRate(Config):
    """A mask rate that changes linearly over the training."""

    type: Literal["linear"] = "linear"
    start: float = Field(0.3, gt=0, lt=1)
    """Share of tokens chosen at the start."""
    end: float = Field(0.15, gt=0, lt=1)
    """Share of tokens chosen at the end."""


MaskRate = Annotated[float, Field(gt=0, lt=1)] | LinearMaskRate


def rate_at(rate: MaskRate, progress: float | NDArray[np.floating]) -> NDArray[np.floating]:
    """The mask rate at `progress` (0: start of training, 1: end), of its shape."""
    share = np.clip(np.asarray(progress, dtype=np.float64), 0.0, 1.0)
    if isinstance(rate, LinearMaskRate):
        linear: NDArray[np.floating] = rate.start + (rate.end - rate.start) * share
        return linear
    return np.full(share.shape, rate)


def highest_rate(rate: MaskRate) -> float:
    """The highest rate of a schedule, which decides the number of label slots."""
    return max(rate.start, rate.end) if isinstance(rate, LinearMaskRate) else rate


def lowest_rate(rate: MaskRate) -> float:
    """The lowest rate of a schedule."""
    return min(rate.start, rate.end) if isinstance(rate, LinearMaskRate) else rate
