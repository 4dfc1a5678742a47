"""What is saved of a training state, what a run resumes with, and how a start is recorded."""

import math
from dataclasses import replace
from typing import Any

from pipeline.checkpoint.build import build_manifest
from pipeline.checkpoint.manifest import (
    Checkpoint,
    CheckpointManifest,
)
from pipeline.checkpoint.progress import Progress
from pipeline.data.position import Segment
from pipeline.engine.deepspeed_engine import Engine
from pipeline.run.plan import RunPlan
from pipeline.tracking import lineage
from pipeline.tracking.sent import run_id_of


def plan_segments(plan: RunPlan, checkpoint: Checkpoint | None) -> tuple[Segment, ...]:
    """The mixture segments of all phases: the recorded ones, then the config's weights."""
    recorded = checkpoint.manifest.segments if checkpoint else ()
    phase_now, row_now = plan.steps.locate(checkpoint.manifest.consumed_rows if checkpoint else 0)
    segments: list[Segment] = [s for s in recorded if s.phase <= phase_now]
    for phase in range(phase_now, len(plan.phases)):
        weights = plan.phases[phase].mixture_weights
        before = [s for s in segments if s.phase == phase]
        if not before:
            segments.append(Segment(phase=phase, start_row=0, weights=weights))
        elif before[-1].weights != weights:
            if before[-1].start_row == row_now:
                segments.remove(before[-1])  # no row was drawn with it
            segments.append(Segment(phase=phase, start_row=row_now, weights=weights))
    return tuple(segments)


def describe_checkpoint(
    plan: RunPlan, engine: Engine, segments: tuple[Segment, ...], progress: Progress
) -> CheckpointManifest:
    """The manifest of the state at `progress`, without its files."""
    loss = progress.score
    model = plan.phases[plan.steps.phase_of_last_row(progress.consumed_rows)].config.model
    is_first = model == plan.config.model
    origin = replace(plan.origin, network=None if is_first else model.model_dump(mode="json"))
    return build_manifest(
        origin,
        engine.specs,
        step=progress.step,
        optimizer_step=engine.optimizer_steps(),
        consumed_rows=progress.consumed_rows,
        segments=segments,
        skipped=progress.skipped,
        recent_losses=progress.recent_losses,
        loss_scale=engine.loss_scale,
        tracking_run_id=run_id_of(plan.config.output),
        heldout_loss=loss if loss is not None and math.isfinite(loss) else None,
        validation=progress.validation,
    )


def describe_run(plan: RunPlan) -> dict[str, Any]:
    """The content of a start in the run's record: parameters, tags, data sets and files."""
    return {
        "params": lineage.describe_parameters(plan),
        "tags": {"state": "running", **lineage.describe_launch()},
        "datasets": lineage.describe_datasets(plan),
        "files": lineage.data_reports(plan.config),
        "status": "RUNNING",
    }
