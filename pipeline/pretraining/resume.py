"""What is saved of a training state, and the position that a run resumes from."""

from dataclasses import dataclass

from pipeline.checkpoint.manifest import Checkpoint, CheckpointManifest, build_manifest
from pipeline.data.position import RowWindow, Segment
from pipeline.engine.deepspeed_engine import Engine
from pipeline.run.plan import RunPlan
from pipeline.tracking.sender import run_id_of


@dataclass(frozen=True)
class Position:
    """The progress of a run."""

    step: int
    """Optimizer steps tried."""
    consumed_rows: int
    """The position in the row stream."""
    heldout_loss: float | None
    """Latest held-out loss, nats per masked token."""
    skipped: tuple[RowWindow, ...]
    """Rows that the run skips."""
    recent_losses: tuple[float, ...]
    """Losses of the last good steps."""


def start_position(checkpoint: Checkpoint | None, skipped: tuple[RowWindow, ...]) -> Position:
    """The position after `checkpoint`; None: the start of the run.

    `skipped` windows of this launch are added to the recorded ones.
    """
    if checkpoint is None:
        return Position(0, 0, None, skipped, ())
    manifest = checkpoint.manifest
    return Position(
        manifest.step,
        manifest.consumed_rows,
        manifest.heldout_loss,
        tuple(dict.fromkeys((*manifest.skipped, *skipped))),
        manifest.recent_losses,
    )


def plan_segments(plan: RunPlan, checkpoint: Checkpoint | None) -> tuple[Segment, ...]:
    """The mixture segments of all phases: the recorded ones, then the config's weights."""
    recorded = checkpoint.manifest.segments if checkpoint else ()
    phase_now, row_now = plan.steps.locate(checkpoint.manifest.consumed_rows if checkpoint else 0)
    segments: list[Segment] = [s for s in recorded if s.phase <= phase_now]
    for phase in range(phase_now, len(plan.phases)):
        weights = plan.phases[phase].config.data.weights
        before = [s for s in segments if s.phase == phase]
        if not before:
            segments.append(Segment(phase=phase, start_row=0, weights=weights))
        elif before[-1].weights != weights:
            if before[-1].start_row == row_now:
                segments.remove(before[-1])  # no row was drawn with it
            segments.append(Segment(phase=phase, start_row=row_now, weights=weights))
    return tuple(segments)


def describe_checkpoint(
    plan: RunPlan, engine: Engine, segments: tuple[Segment, ...], position: Position
) -> CheckpointManifest:
    """The manifest of the state at `position`, without its files."""
    return build_manifest(
        plan.origin,
        engine.specs,
        step=position.step,
        optimizer_step=engine.optimizer_steps(),
        consumed_rows=position.consumed_rows,
        segments=segments,
        skipped=position.skipped,
        recent_losses=position.recent_losses,
        loss_scale=engine.loss_scale,
        tracking_run_id=run_id_of(plan.config.output),
        heldout_loss=position.heldout_loss,
    )
