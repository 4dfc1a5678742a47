"""Learning rate as a pure function of rows consumed, so that no schedule has state to resume."""

import math
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from configs.load import Config


class _Schedule(Config):
    warmup_rows: NonNegativeInt = 0
    """Rows over which the learning rate rises linearly from 0."""

    warmup_share: float | None = Field(None, ge=0, lt=1)
    """The warm-up as a share of the rows up to the end of the schedule (RoBERTa's fine-tuning:
    0.06), in place of `warmup_rows`."""

    total_rows: PositiveInt | None = None
    """Rows at which the schedule ends (default: where training ends)."""

    @model_validator(mode="after")
    def _has_one_warmup(self) -> Self:
        if self.warmup_share is not None and self.warmup_rows:
            raise ValueError(
                f"warmup_rows {self.warmup_rows} and warmup_share {self.warmup_share}: give one"
            )
        return self

    def warmup(self, training_rows: int) -> float:
        """Rows of the warm-up of a training of `training_rows` rows."""
        if self.warmup_share is None:
            return self.warmup_rows
        return self.warmup_share * (self.total_rows or training_rows)

    def learning_rate(self, peak: float, consumed_rows: int, training_rows: int) -> float:
        """The rate of the optimizer step whose last row is number `consumed_rows` of the stream."""
        warmup = self.warmup(training_rows)
        if consumed_rows < warmup:
            return peak * consumed_rows / warmup
        end = self.total_rows or training_rows
        span = max(1, end - warmup)
        return peak * self._decay(min(1.0, (consumed_rows - warmup) / span))

    def depends_on_end(self, consumed_rows: int, training_rows: int) -> bool:
        """Whether rates up to row `consumed_rows` would differ if training ended later."""
        return self.total_rows is None and (
            self._warmup_depends_on_end(consumed_rows) or consumed_rows > self.warmup_rows
        )

    def _warmup_depends_on_end(self, consumed_rows: int) -> bool:
        return bool(self.warmup_share) and self.total_rows is None and consumed_rows > 0

    def repeated(self) -> Self:
        """The same kind for the phase after: it has no warm-up, and ends with that phase."""
        changes = {"warmup_rows": 0, "warmup_share": None, "total_rows": None}
        return self.model_copy(update=changes)

    def _decay(self, progress: float) -> float:
        raise NotImplementedError


class ConstantSchedule(_Schedule):
    """The peak rate after the warm-up."""

    type: Literal["constant"] = "constant"

    def depends_on_end(self, consumed_rows: int, training_rows: int) -> bool:
        """Only with a warm-up that is a share."""
        return self._warmup_depends_on_end(consumed_rows)

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
    """Constant, then a decay over the last `decay_share`; a trapezoid if the decay is linear.

    Source: Haegele et al. 2024, "Scaling laws and compute-optimal training beyond fixed training
    durations", section 3.
    """

    type: Literal["wsd"] = "wsd"
    decay_share: float = Field(0.2, gt=0, le=1)
    """The share of the rows after the warm-up over which the rate falls; 1: all of them."""
    decay: Literal["one_minus_sqrt", "linear", "cosine"] = "one_minus_sqrt"
    """How the rate falls: as 1 - sqrt(progress), linearly, or as half a cosine wave."""
    final_ratio: float = Field(0.0, ge=0, le=1)
    """The last learning rate as a share of the peak."""

    def depends_on_end(self, consumed_rows: int, training_rows: int) -> bool:
        """Once the decay has started; from the first row with a warm-up that is a share."""
        if self._warmup_depends_on_end(consumed_rows):
            return True
        stable_rows = (training_rows - self.warmup_rows) * (1 - self.decay_share)
        is_stable = consumed_rows <= self.warmup_rows + stable_rows
        return super().depends_on_end(consumed_rows, training_rows) and not is_stable

    def _decay(self, progress: float) -> float:
        start = 1 - self.decay_share
        if progress <= start:
            return 1.0
        done = (progress - start) / self.decay_share
        if self.decay == "one_minus_sqrt":
            left = 1 - math.sqrt(done)
        elif self.decay == "linear":
            left = 1 - done
        else:
            left = (1 + math.cos(math.pi * done)) / 2
        return self.final_ratio + (1 - self.final_ratio) * left


class InverseSqrtSchedule(_Schedule):
    """peak x sqrt(s / (s + rows since the warm-up)), s being `scale_rows`.

    With s equal to the warm-up it is that of Vaswani et al. 2017 (equation 3).
    """

    type: Literal["inverse_sqrt"] = "inverse_sqrt"
    scale_rows: PositiveInt | None = None
    """Rows after the warm-up at which the rate is peak / sqrt(2); as `warmup_rows` if not given.
    To be given where the warm-up is a share."""

    @model_validator(mode="after")
    def _has_a_scale(self) -> Self:
        if not self._scale:
            raise ValueError("inverse_sqrt needs scale_rows where it has no warmup_rows")
        return self

    @property
    def _scale(self) -> int:
        return self.scale_rows or self.warmup_rows

    def learning_rate(self, peak: float, consumed_rows: int, training_rows: int) -> float:
        """The rate of the optimizer step whose last row is number `consumed_rows` of the stream."""
        warmup = self.warmup(training_rows)
        if consumed_rows < warmup:
            return super().learning_rate(peak, consumed_rows, training_rows)
        rows = min(consumed_rows, self.total_rows or consumed_rows) - warmup
        return peak * math.sqrt(self._scale / (self._scale + max(0, rows)))

    def depends_on_end(self, consumed_rows: int, training_rows: int) -> bool:
        """Only with a warm-up that is a share."""
        return self._warmup_depends_on_end(consumed_rows)

    def repeated(self) -> Self:
        """The same kind for the phase after, with the same scale."""
        return super().repeated().model_copy(update={"scale_rows": self._scale})


ScheduleConfig = Annotated[
    ConstantSchedule
    | LinearSchedule
    | CosineSchedule
    | WarmupStableDecaySchedule
    | InverseSqrtSchedule,
    Field(discriminator="type"),
]
