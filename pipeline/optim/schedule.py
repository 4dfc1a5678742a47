"""Learning rate as a pure function of rows consumed, so that no schedule has state to resume."""

import math
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from configs.load import Config


class _Schedule(Config):
    warmup_rows: NonNegativeInt = 0
    """Rows over which the learning rate rises linearly from 0."""

    total_rows: PositiveInt | None = None
    """Rows at which the schedule ends (default: where training ends)."""

    def learning_rate(self, peak: float, consumed_rows: int, training_rows: int) -> float:
        """The rate of the optimizer step whose last row is number `consumed_rows` of the stream."""
        if consumed_rows < self.warmup_rows:
            return peak * consumed_rows / self.warmup_rows
        end = self.total_rows or training_rows
        span = max(1, end - self.warmup_rows)
        return peak * self._decay(min(1.0, (consumed_rows - self.warmup_rows) / span))

    def _decay(self, progress: float) -> float:
        raise NotImplementedError


class ConstantSchedule(_Schedule):
    """The peak rate after the warm-up."""

    type: Literal["constant"] = "constant"

    def _decay(self, progress: float) -> float:
        return 1.0


class LinearSchedule(_Schedule):
    """Linear decay to `final_ratio` of the peak, RoBERTa's schedule (Liu et al. 2019, Table 9)."""

    type: Literal["linear"] = "linear"
    final_ratio: float = Field(0.0, ge=0, le=1)
    """The last learning rate as a share of the peak."""

    def _decay(self, progress: float) -> float:
        return 1 - (1 - self.final_ratio) * progress


class CosineSchedule(_Schedule):
    """Half a cosine wave down to `final_ratio` of the peak."""

    type: Literal["cosine"] = "cosine"
    final_ratio: float = Field(0.0, ge=0, le=1)
    """The last learning rate as a share of the peak."""

    def _decay(self, progress: float) -> float:
        wave = (1 + math.cos(math.pi * progress)) / 2
        return self.final_ratio + (1 - self.final_ratio) * wave


class WarmupStableDecaySchedule(_Schedule):
    """Constant, then 1 - sqrt(progress) over the last `decay_share`.

    Source: Haegele et al. 2024, "Scaling laws and compute-optimal training beyond fixed training
    durations", section 3.
    """

    type: Literal["wsd"] = "wsd"
    decay_share: float = Field(0.2, gt=0, le=1)
    """The share of the rows after the warm-up over which the rate falls."""

    def _decay(self, progress: float) -> float:
        start = 1 - self.decay_share
        return 1.0 if progress <= start else 1 - math.sqrt((progress - start) / self.decay_share)


ScheduleConfig = Annotated[
    ConstantSchedule | LinearSchedule | CosineSchedule | WarmupStableDecaySchedule,
    Field(discriminator="type"),
]
