"""When training has gone wrong, and which rows to pass over when it is taken back.

Two signs: gradients that are not finite in too many steps in a row, and a loss far above its recent
course. Both rest on values that are equal on all ranks, so all ranks decide alike.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field, NonNegativeInt, PositiveInt

from configs.load import Config
from pipeline.data.position import RowWindow

NORMAL_DEVIATIONS_PER_MAD = 1.4826
"""A normal distribution's standard deviation is this many median absolute deviations."""


class StabilityConfig(Config):
    """When a run goes back to its newest checkpoint and passes over the rows that spoilt it."""

    max_skipped_in_a_row: PositiveInt = 5
    """Steps in a row without finite gradients that are borne."""

    spike_deviations: float = Field(20.0, ge=0)
    """A loss this many robust standard deviations above the median is a spike; 0: never."""

    spike_steps: PositiveInt = 5
    """Spiked steps in a row that make the run go back."""

    window_steps: PositiveInt = Field(200, ge=20)
    """Steps whose losses make the median and the deviation."""

    max_rollbacks: NonNegativeInt = 10
    """How often a run may go back before it stops with an error."""


@dataclass(frozen=True)
class Trouble:
    """Why a run goes back, and the rows that it then passes over."""

    reason: str
    rows: RowWindow


class StabilityWatch:
    """Looks at every step; its whole state is the losses of the recent good steps."""

    def __init__(self, config: StabilityConfig, recent_losses: Sequence[float] = ()) -> None:
        self._config = config
        self._losses = list(recent_losses)[-config.window_steps :]
        self._bad: list[tuple[str, RowWindow]] = []

    @property
    def recent_losses(self) -> tuple[float, ...]:
        """What a resumed watch has to begin with."""
        return tuple(self._losses)

    def look(self, loss: float, is_finite: bool, rows: RowWindow) -> Trouble | None:
        """Trouble, if the step on `rows` is the last straw."""
        limit = self._spike_limit()
        if not is_finite:
            self._bad.append(("gradients that are not finite", rows))
        elif limit is not None and loss > limit:
            self._bad.append((f"a loss above {limit:.3f}", rows))
        else:
            self._bad.clear()
            self._losses.append(loss)
            del self._losses[: -self._config.window_steps]
            return None
        allowed = self._config.spike_steps if is_finite else self._config.max_skipped_in_a_row
        if len(self._bad) < allowed:
            return None
        reasons = " and ".join(dict.fromkeys(reason for reason, _ in self._bad))
        window = RowWindow(start_row=self._bad[0][1].start_row, end_row=rows.end_row)
        return Trouble(f"{len(self._bad)} steps in a row with {reasons}", window)

    def _spike_limit(self) -> float | None:
        """The loss above which a step is a spike; None until there are enough steps to tell."""
        if not self._config.spike_deviations or len(self._losses) < self._config.window_steps:
            return None
        median = statistics.median(self._losses)
        spread = statistics.median(abs(loss - median) for loss in self._losses)
        return median + self._config.spike_deviations * NORMAL_DEVIATIONS_PER_MAD * spread
