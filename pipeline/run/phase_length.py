"""What else a phase's length decides: rates that fall until its end."""

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
        yield (
            f"{change}: the {schedule.type} schedule ends with the phase, so {taken_rows:,} rows "
            "would have been trained on with different learning rates; keep it, and add a phase "
            f"under `then` (or set {where}schedule.total_rows: {old_rows})"
        )
    if _holds_schedule(before.objective):
        yield (
            f"{change}: {where}objective.mask_rate changes over the phase, so {taken_rows:,} rows "
            "would have had different masks; keep it, and add a phase under `then`"
        )


def _holds_schedule(config: BaseModel) -> bool:
    """Whether a mask rate in an objective's config changes over the phase."""
    values = (value for _, value in config)
    return any(
        isinstance(value, LinearMaskRate)
        or (isinstance(value, BaseModel) and _holds_schedule(value))
        for value in values
    )
