"""What is saved of a fine-tuning run's state, and what its record holds of a start."""

from dataclasses import dataclass
from typing import Any

from pipeline.checkpoint.manifest import Checkpoint, CheckpointManifest, build_manifest
from pipeline.data.position import RowWindow
from pipeline.engine.deepspeed_engine import Engine
from pipeline.finetuning.plan import FinetunePlan
from pipeline.tracking import lineage
from pipeline.tracking.sender import run_id_of


@dataclass(frozen=True)
class Position:
    """The progress of a run."""

    step: int
    """Optimizer steps tried."""
    consumed_rows: int
    """The position in the rows of all tasks together."""
    dev_error: float | None
    """Latest `mean_error` on the dev files."""
    skipped: tuple[RowWindow, ...]
    """Rows that the run skips."""
    recent_losses: tuple[float, ...]
    """Losses of the last stable steps."""


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
        manifest.selection_score,
        tuple(dict.fromkeys((*manifest.skipped, *skipped))),
        manifest.recent_losses,
    )


def describe_checkpoint(
    plan: FinetunePlan, engine: Engine, position: Position
) -> CheckpointManifest:
    """The manifest of the state at `position`, without its files."""
    return build_manifest(
        plan.origin,
        engine.specs,
        step=position.step,
        optimizer_step=engine.optimizer_steps(),
        consumed_rows=position.consumed_rows,
        skipped=position.skipped,
        recent_losses=position.recent_losses,
        loss_scale=engine.loss_scale,
        tracking_run_id=run_id_of(plan.config.output),
        dev_error=position.dev_error,
    )


def describe_run(plan: FinetunePlan) -> dict[str, Any]:
    """The content of a start in the run's record: parameters, tags and data sets."""
    return {
        "params": {
            **lineage.describe_code(plan.config),
            "grid.tp_size": plan.tp_size,
            "grid.dp_size": plan.dp_size,
            "start.description": plan.start.description,
            "start.fingerprint": plan.start.fingerprint,
            "data.fingerprint": plan.data_fingerprint,
            "data.tokenizer_sha256": plan.start.tokenizer_sha256,
        },
        "tags": {"state": "running", **lineage.describe_launch()},
        "datasets": [
            lineage.describe_file(name, split, file.path, file.sha256, len(file.examples))
            for split, files in (("train", plan.train), ("dev", plan.dev))
            for name, file in files.items()
        ],
        "files": [],
        "status": "RUNNING",
    }
