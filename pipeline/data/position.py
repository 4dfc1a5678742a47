"""Positions in the row stream: ranges of steps, windows of rows, segments."""

from collections.abc import Iterator
from dataclasses import dataclass

from configs.load import Config


class Segment(Config):
    """A stretch of a phase's row stream that is drawn with one set of mixture weights."""

    phase: int
    """Number of the phase, from 0."""
    start_row: int
    """Position in the stream of the phase at which it begins."""
    weights: dict[str, float] | None
    """The mixture weights (None: by row count)."""


class RowWindow(Config):
    """Positions of a run, counted over all phases, from `start_row` to before `end_row`."""

    start_row: int
    """The first."""
    end_row: int
    """Behind the last."""


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
