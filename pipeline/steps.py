"""Which rows each optimizer step takes: a pure function of the config and of the position.

The position of a run is one integer, `consumed_rows`, counted over all phases. Inside a phase the
steps follow each other without gap; their size is the batch's `global_rows`, smaller while the
batch warms up.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.config import PhaseConfig, TrainConfig
from pipeline.stability import RowWindow


@dataclass(frozen=True)
class StepRange:
    """The rows of one optimizer step."""

    start_row: int
    """Position of its first row in the stream of its phase."""
    global_rows: int
    """How many rows it takes."""

    @property
    def end_row(self) -> int:
        """Position behind its last row."""
        return self.start_row + self.global_rows


@dataclass(frozen=True)
class PhaseSteps:
    """The steps of one phase: stretches of equal steps."""

    stretches: tuple[tuple[int, int, int], ...]
    """(first row, row behind the last, rows a step) of each, without gap and in whole steps."""

    @property
    def total_rows(self) -> int:
        """Rows that the phase's steps take: its `total_rows` rounded down to whole steps."""
        return self.stretches[-1][1]

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the phase."""
        return sum((end - start) // size for start, end, size in self.stretches)

    def from_row(self, row: int) -> Iterator[StepRange]:
        """The steps from position `row` on, which must be where one begins."""
        for start, end, size in self.stretches:
            if row < end:
                first = max(row, start)
                assert (first - start) % size == 0, f"row {row} is inside of a step"
                for step_start in range(first, end, size):
                    yield StepRange(step_start, size)


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
