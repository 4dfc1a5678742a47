"""What a step, an evaluation and a save change: the position, the decisions, what is saved."""

import math
from collections.abc import Callable

from pipeline.checkpoint.config import CheckpointConfig
from pipeline.checkpoint.progress import Progress
from pipeline.data.position import RowWindow
from pipeline.engine.step import StepResult
from pipeline.engine.throughput import log_if_skipped
from pipeline.fault_tolerance.loss_spikes import Instability, StabilityConfig, StabilityWatch
from pipeline.validation.watch import ValidationWatch


class TrainingState:
    """The state of a training loop besides weights, moments and data.

    It is the same on all ranks.
    """

    def __init__(
        self,
        start: Progress,
        last_row: int,
        keep: CheckpointConfig,
        stability: StabilityConfig,
        validation: ValidationWatch,
        save: Callable[[Progress], None],
    ) -> None:
        """`start`: what training starts from. `last_row`: the position of its end.

        `save` starts to save a checkpoint.
        """
        self.step, self.consumed_rows = start.step, start.consumed_rows
        self.validation = validation
        self.instability: Instability | None = None
        """Why training has to roll back; None: it is stable."""
        self._start, self._last_row, self._keep = start, last_row, keep
        self._watch = StabilityWatch(stability, start.recent_losses)
        self._save, self._saved_step = save, start.step
        self._score: float | None = None
        # By the clock of rank 0, which all ranks know after a step; infinite before it.
        self._now_s, self._saved_at_s = math.inf, math.inf

    @property
    def first_row(self) -> int:
        """Where the loop takes its next row: nowhere after early stopping."""
        return self._last_row if self.validation.stop else self.consumed_rows

    @property
    def is_at_end(self) -> bool:
        """Whether all rows are consumed."""
        return self.consumed_rows >= self._last_row

    def is_due(self, every_steps: int) -> bool:
        """Whether what happens every so many steps, and at the last row, happens at this step."""
        return self.step % every_steps == 0 or self.is_at_end

    @property
    def save_is_due(self) -> bool:
        """Whether this step is saved: at an interval, at the end, or as the best so far."""
        minutes = self._keep.every_minutes
        if minutes is not None and self._now_s - self._saved_at_s >= 60 * minutes:
            return True
        is_best = self._keep.keep_best > 0 and self.validation.is_best(self.step)
        return self.is_due(self._keep.every_steps) or is_best or self.validation.stop is not None

    @property
    def has_unsaved_steps(self) -> bool:
        """Whether stable steps follow the last save, as after a stop signal between two saves."""
        return self.instability is None and self.step > self._saved_step

    def add_step(self, result: StepResult, rows: RowWindow) -> None:
        """Takes note of a step on the rows up to the end of `rows`; `instability` may be set."""
        self.step, self.consumed_rows, self._score = self.step + 1, rows.end_row, None
        self._now_s = result.clock_s
        self._saved_at_s = min(self._saved_at_s, self._now_s)  # the first step counts as a save
        log_if_skipped(self.step, result, rows)
        self.instability = self._watch.observe(result.loss, result.is_finite, rows)

    def add_evaluation(self, score: float | None, phase: int, measured_on: str) -> None:
        """Takes note of an evaluation after this step (`ValidationWatch.observe`)."""
        self._score = score
        self.validation.observe(self.step, score, phase, measured_on)

    def save(self, start_score: float | None = None) -> None:
        """Starts to save this step; `start_score`: the score of step 0, no evaluation of which
        decides anything."""
        score = self._score if self.step else start_score
        losses, validation = self._watch.recent_losses, self.validation.state
        self._save(self._start.at(self.step, self.consumed_rows, score, losses, validation))
        self._saved_step, self._saved_at_s = self.step, self._now_s
