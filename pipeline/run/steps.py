"""Which rows each optimizer step takes: a pure function of the config and of the position.

The position of a run is one integer, `consumed_rows`, counted over all phases. Inside a phase the
steps follow each other without gap; their size is the batch's `global_rows`, smaller while the
batch warms up.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.data.position import PhaseSteps, RowWindow
from pipeline.run.config import PhaseConfig, TrainConfig


def phase_steps(phase: PhaseConfig) -> PhaseSteps:
    """The steps of `phase`; every stage of its batch warm-up is rounded up to whole steps."""
    stretches = []
    row = 0
    for stage in phase.batch.warmup:
        num_steps = -(-(stage.until_row - row) // stage.global_rows)
        if num_steps > 0:
            stretches.append((row, row + num_steps * stage.global_rows, stage.global_rows))
            row = stretches[-1][1]
    size = phase.batch.global_rows
    num_steps = (phase.total_rows - row) // size
    if num_steps > 0:
        stretches.append((row, row + num_steps * size, size))
    return PhaseSteps(tuple(stretches))


@dataclass(frozen=True)
class RunSteps:
    """The steps of all phases, one after another."""

    phases: tuple[PhaseSteps, ...]

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return sum(phase.total_steps for phase in self.phases)

    @property
    def total_rows(self) -> int:
        """Rows that all steps take."""
        return sum(phase.total_rows for phase in self.phases)

    def first_row(self, phase: int) -> int:
        """The position at which a phase begins."""
        return sum(steps.total_rows for steps in self.phases[:phase])

    def end_row(self, skipped: Sequence[RowWindow]) -> int:
        """The position behind the last step that is not passed over."""
        end = self.total_rows
        for window in sorted(skipped, key=lambda window: window.end_row, reverse=True):
            if window.start_row < end <= window.end_row:
                end = window.start_row
        return end

    def locate(self, consumed_rows: int) -> tuple[int, int]:
        """(phase, position in its stream) of the row at `consumed_rows`; the end is in the last."""
        for number, phase in enumerate(self.phases[:-1]):
            if consumed_rows < phase.total_rows:
                return number, consumed_rows
            consumed_rows -= phase.total_rows
        return len(self.phases) - 1, consumed_rows


def run_steps(config: TrainConfig) -> RunSteps:
    """The steps of a run."""
    return RunSteps(tuple(phase_steps(phase) for phase in config.phases))
