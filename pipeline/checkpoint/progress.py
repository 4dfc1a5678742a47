"""How far a run has come: what a resumed loop starts from, and what a checkpoint records of it."""

from dataclasses import dataclass

from pipeline.checkpoint.manifest import Checkpoint
from pipeline.data.position import RowWindow
from pipeline.validation.state import ValidationState


@dataclass(frozen=True)
class Progress:
    """The progress of a run, as its newest checkpoint records it."""

    step: int
    """Optimizer steps tried."""
    consumed_rows: int
    """The position in the row stream; in fine-tuning, in the rows of all tasks together."""
    score: float | None
    """What the best checkpoints are chosen by, the lowest first; None: not evaluated at this step.

    The held-out loss (nats per masked token) or, in fine-tuning, the mean error on the dev files,
    where it was measured after exactly `step` steps and is finite."""
    skipped: tuple[RowWindow, ...]
    """Rows that the run skips."""
    recent_losses: tuple[float, ...]
    """Losses of the last stable steps."""
    validation: ValidationState | None = None
    """The evaluations so far."""

    def at(
        self,
        step: int,
        consumed_rows: int,
        score: float | None,
        recent_losses: tuple[float, ...],
        validation: ValidationState | None,
    ) -> "Progress":
        """How far the run has come since this; arguments as the fields."""
        return Progress(step, consumed_rows, score, self.skipped, recent_losses, validation)


def start_progress(checkpoint: Checkpoint | None, skipped: tuple[RowWindow, ...]) -> Progress:
    """The progress that `checkpoint` records; None: the start of the run.

    The `skipped` windows of this launch are added to the recorded ones.
    """
    if checkpoint is None:
        return Progress(0, 0, None, skipped, ())
    manifest = checkpoint.manifest
    return Progress(
        manifest.step,
        manifest.consumed_rows,
        manifest.selection_score,
        tuple(dict.fromkeys((*manifest.skipped, *skipped))),
        manifest.recent_losses,
        manifest.validation,
    )
