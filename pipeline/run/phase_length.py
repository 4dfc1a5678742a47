"""What else a phase's length decides: rates that fall until its end."""

import math
from collections.abc import Iterator

from pydantic import BaseModel

from model.objectives.mask_rate import LinearMaskRate
from pipeline.run.phases import PhaseConfig


def rates_of_steps_taken(
    where: str, before: PhaseConfig, now: PhaseConfig, taken_rows: int
) -> Iterator[str]:
    """A line if steps on the first `taken_rows` rows of a phase would have had different learning
    or mask rates with the length that it has now. `where` is the dotted path before its keys.

    A schedule that is different itself was changed on purpose, and counts for the steps to come.
    """
    old_rows, new_rows = before.steps.total_rows, now.steps.total_rows
    if old_rows == new_rows or not taken_rows:
        return
    change = f"{where}total_rows: {before.total_rows} before, {now.total_rows} now"
    schedule = before.schedule
    if schedule == now.schedule and any(
        schedule.depends_on_end(taken_rows, rows) for rows in (old_rows, new_rows)
    ):
        last = schedule.learning_rate(1.0, old_rows, old_rows)
        yield (
            f"{change}: the {schedule.type} schedule ends with the phase, so {taken_rows:,} rows "
            "would have been trained on with different learning rates; choose a new output folder, "
            f"or keep {where}total_rows and add a phase under `then` ({where}schedule.total_rows: "
            f"{old_rows} would train all later rows at {last:g} x the peak)"
        )
    if _holds_schedule(before.objective):
        yield (
            f"{change}: {where}objective.mask_rate changes over the phase, so {taken_rows:,} rows "
            "would have had different masks; choose a new output folder, or keep "
            f"{where}total_rows and add a phase under `then`"
        )


def rows_after_schedule(phase: PhaseConfig) -> str | None:
    """A line if the learning rate of a phase falls to its last value before the end."""
    schedule, rows, end = phase.schedule, phase.steps.total_rows, phase.schedule.total_rows
    if end is None or end >= rows:
        return None
    first = math.ceil(schedule.warmup(rows))
    last, start = (schedule.learning_rate(1.0, row, rows) for row in (rows, first))
    if last == start:  # constant
        return None
    return (
        f"schedule.total_rows {end:,} ends before these {rows:,} rows: the last {rows - end:,} "
        f"have {last:g} x the peak learning rate"
    )


def _holds_schedule(config: BaseModel) -> bool:
    """Whether a mask rate in an objective's config changes over the phase."""
    values = (value for _, value in config)
    return any(
        isinstance(value, LinearMaskRate)
        or (isinstance(value, BaseModel) and _holds_schedule(value))
        for value in values
    )
