"""Which rows each optimizer step takes: a pure function of the batch sizes and of the position.

The position of a run is one integer, `consumed_rows`, counted over all phases. Inside a phase the
steps follow each other without a gap; their size is the global batch size, smaller while the batch
warms up.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.data.position import PhaseSteps, RowWindow, StepSegment


def phase_steps(
    total_rows: int, global_rows: int, warmup: Sequence[tuple[int, int]] = ()
) -> PhaseSteps:
    """The steps of a phase of at most `total_rows` rows, `global_rows` a step.

    `warmup` are the (first row after the stage, rows a step) of the stages of the batch warm-up;
    each stage is rounded up to whole steps.
    """
    segments: list[StepSegment] = []
    row = 0
    for until_row, stage_rows in warmup:
        num_steps = -(-(until_row - row) // stage_rows)
        if num_steps > 0:
            segments.append(StepSegment(row, row + num_steps * stage_rows, stage_rows))
            row = segments[-1].end_row
    num_steps = (total_rows - row) // global_rows
    if num_steps > 0:
        segments.append(StepSegment(row, row + num_steps * global_rows, global_rows))
    return PhaseSteps(tuple(segments))


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
        """The position at which a phase starts."""
        return sum(steps.total_rows for steps in self.phases[:phase])

    def end_row(self, skipped: Sequence[RowWindow]) -> int:
        """The position after the last step that is not skipped."""
        end = self.total_rows
        for window in sorted(skipped, key=lambda window: window.end_row, reverse=True):
            if window.start_row < end <= window.end_row:
                end = window.start_row
        return end

    def phase_of_last_row(self, consumed_rows: int) -> int:
        """The phase of the last row before `consumed_rows`, whose settings it was trained with."""
        return self.locate(max(consumed_rows - 1, 0))[0]

    def locate(self, consumed_rows: int) -> tuple[int, int]:
        """(phase, position in its stream) of the row at `consumed_rows`; the end is in the last."""
        for number, phase in enumerate(self.phases[:-1]):
            if consumed_rows < phase.total_rows:
                return number, consumed_rows
            consumed_rows -= phase.total_rows
        return len(self.phases) - 1, consumed_rows
