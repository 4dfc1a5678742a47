"""Recognises instability of training, and the rows to skip when the run rolls back.

Two signs: gradients that are not finite in too many steps in a row, and a loss far above its recent
values (a loss spike). Both use values that are equal on all ranks, so all ranks decide alike.
"""

import logging
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field, NonNegativeInt, PositiveInt

from configs.load import Config, UserError
from pipeline.data.position import RowWindow

logger = logging.getLogger(__name__)

NORMAL_DEVIATIONS_PER_MAD = 1.4826
"""A normal distribution's standard deviation is this many median absolute deviations."""


class StabilityConfig(Config):
    """When a run rolls back to its newest checkpoint and skips the rows that made it unstable."""

    max_skipped_in_a_row: PositiveInt = 5
    """Steps in a row without finite gradients at which the run rolls back."""

    spike_deviations: float = Field(20.0, ge=0)
    """A loss this many robust standard deviations above the median is a spike; 0: never."""

    spike_steps: PositiveInt = 5
    """Spikes in consecutive steps at which the run rolls back."""

    window_steps: int = Field(200, ge=20)
    """Steps over whose losses median and deviation are computed."""

    max_rollbacks: NonNegativeInt = 10
    """How often a run may roll back before it stops with an error."""


class DivergedError(UserError):
    """A run stays unstable, however often it rolls back."""


@dataclass(frozen=True)
class Instability:
    """Why a run rolls back, and the rows that it then skips."""

    reason: str
    rows: RowWindow


class StabilityWatch:
    """Observes every step; its whole state is the losses of the recent stable steps."""

    def __init__(self, config: StabilityConfig, recent_losses: Sequence[float] = ()) -> None:
        self._config = config
        self._losses = list(recent_losses)[-config.window_steps :]
        self._unstable: list[tuple[str, RowWindow]] = []

    @property
    def recent_losses(self) -> tuple[float, ...]:
        """The state that a resumed watch starts with."""
        return tuple(self._losses)

    def observe(self, loss: float, is_finite: bool, rows: RowWindow) -> Instability | None:
        """The instability, if the step on `rows` is one unstable step in a row too many; else None.

        `loss` is that of the step; `is_finite` says whether all of its gradients were finite.
        """
        limit = self._spike_limit()
        if not is_finite:
            self._unstable.append(("gradients that are not finite", rows))
        elif limit is not None and loss > limit:
            self._unstable.append((f"a loss above {limit:.3f}", rows))
        else:
            self._unstable.clear()
            self._losses.append(loss)
            del self._losses[: -self._config.window_steps]
            return None
        allowed = self._config.spike_steps if is_finite else self._config.max_skipped_in_a_row
        if len(self._unstable) < allowed:
            return None
        reasons = " and ".join(dict.fromkeys(reason for reason, _ in self._unstable))
        window = RowWindow(start_row=self._unstable[0][1].start_row, end_row=rows.end_row)
        return Instability(f"{len(self._unstable)} steps in a row with {reasons}", window)

    def _spike_limit(self) -> float | None:
        """The loss above which a step is a spike; None until enough losses are known."""
        if not self._config.spike_deviations or len(self._losses) < self._config.window_steps:
            return None
        median = statistics.median(self._losses)
        spread = statistics.median(abs(loss - median) for loss in self._losses)
        return median + self._config.spike_deviations * NORMAL_DEVIATIONS_PER_MAD * spread


def roll_back(
    instability: Instability, skipped: tuple[RowWindow, ...], config: StabilityConfig
) -> tuple[RowWindow, ...]:
    """The windows of rows to skip after `instability`, those of this launch so far included.

    Raises DivergedError if the run has rolled back as often as `config` allows.
    """
    if len(skipped) >= config.max_rollbacks:
        raise DivergedError(
            f"{instability.reason}, after {len(skipped)} rollbacks (stability.max_rollbacks): the "
            "run stops here. Look at its metrics, lower the learning rate, or clip gradients"
        )
    logger.info(
        "%s: rolling back to the newest checkpoint and skipping the rows %s to %s",
        instability.reason,
        f"{instability.rows.start_row:,}",
        f"{instability.rows.end_row - 1:,}",
    )
    return (*skipped, instability.rows)
