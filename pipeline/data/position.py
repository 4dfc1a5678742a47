"""Positions in the row stream: ranges of steps, windows of rows, mixture segments."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, NamedTuple

from pydantic import Field, NonNegativeInt

from configs.load import Config


class Segment(Config):
    """A range of a phase's row stream that is drawn with one set of mixture weights."""

    phase: NonNegativeInt
    """Number of the phase, from 0."""
    start_row: NonNegativeInt
    """Position in the stream of the phase at which it starts."""
    weights: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] | None
    """The mixture weights (None: by row count)."""


class RowWindow(Config):
    """The positions [start_row, end_row) of a run, counted over all phases."""

    start_row: NonNegativeInt
    """The first."""
    end_row: NonNegativeInt
    """The exclusive end."""


@dataclass(frozen=True)
class StepRange:
    """The rows of one optimizer step."""

    start_row: int
    """Position of its first row in the stream of its phase."""
    global_rows: int
    """How many rows it takes (the global batch size)."""

    @property
    def end_row(self) -> int:
        """Position after its last row."""
        return self.start_row + self.global_rows


class StepSegment(NamedTuple):
    """The rows [start_row, end_row) of a phase, which steps of equal size take."""

    start_row: int
    end_row: int
    step_rows: int
    """Rows of each step."""


@dataclass(frozen=True)
class PhaseSteps:
    """The steps of one phase."""

    segments: tuple[StepSegment, ...]
    """They follow each other without a gap and hold whole steps."""

    @property
    def total_rows(self) -> int:
        """Rows that the phase's steps take: its `total_rows` rounded down to whole steps."""
        return self.segments[-1].end_row

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the phase."""
        return sum((end - start) // size for start, end, size in self.segments)

    def from_row(self, row: int) -> Iterator[StepRange]:
        """The steps from position `row` on, which must be the start of one."""
        for start, end, size in self.segments:
            if row < end:
                first = max(row, start)
                assert (first - start) % size == 0, f"row {row} is inside of a step"
                for step_start in range(first, end, size):
                    yield StepRange(step_start, size)
