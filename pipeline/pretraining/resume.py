"""What is saved of a training state, and which checkpoint a run goes on from."""

from dataclasses import dataclass

from pipeline.checkpoint.manifest import (
    STATE_KEYS,
    Checkpoint,
    CheckpointManifest,
    ParameterRecord,
)
from pipeline.data.position import RowWindow, Segment
from pipeline.engine.deepspeed_engine import Engine
from pipeline.run.plan import RunPlan
from pipeline.run.versions import versions
from pipeline.tracking.sender import run_id_of


@dataclass(frozen=True)
class Position:
    """How far a run is."""

    step: int
    """Optimizer steps tried."""
    consumed_rows: int
    """The position in the row stream."""
    heldout_loss: float | None
    """Latest held-out loss, nats per masked token."""
    skipped: tuple[RowWindow, ...]
    """Rows that the run passes over."""
    recent_losses: tuple[float, ...]
    """Losses of the last good steps."""


def start_position(checkpoint: Checkpoint | None, skipped: tuple[RowWindow, ...]) -> Position:
    """Where a run goes on; `skipped` windows of this launch are added to the recorded ones."""
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
    """The mixture segments of all phases: what was, and the config's weights from now on."""
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
    """The manifest of the state at `position`, its files still to be listed."""
    config = plan.config
    return CheckpointManifest(
        step=position.step,
        optimizer_step=engine.optimizer_steps(),
        consumed_rows=position.consumed_rows,
        segments=segments,
        skipped=position.skipped,
        recent_losses=position.recent_losses,
        loss_scale=engine.loss_scale,
        seed=config.seed,
        tp_size=plan.tp_size,
        dp_size=plan.dp_size,
        zero_stage=config.parallel.zero_stage,
        config=config.model_dump(mode="json"),
        vocab_size=plan.vocab_size,
        data_fingerprint=plan.data_fingerprint,
        tokenizer_sha256=plan.tokenizer_sha256,
        tracking_run_id=run_id_of(config.output),
        heldout_loss=position.heldout_loss,
        versions=versions(),
        parameters={
            name: ParameterRecord(shape=spec.full_shape, partition_dim=spec.partition_dim)
            for name, spec in engine.specs.items()
        },
        state_keys=STATE_KEYS,
    )
