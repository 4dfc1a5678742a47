"""What is saved of a fine-tuning run's state, and what its record holds of a start."""

from typing import Any

from pipeline.checkpoint.build import build_manifest
from pipeline.checkpoint.manifest import (
    CheckpointManifest,
)
from pipeline.checkpoint.progress import Progress
from pipeline.engine.deepspeed_engine import Engine
from pipeline.finetuning.account import account_parameters
from pipeline.finetuning.plan import FinetunePlan
from pipeline.tracking import lineage
from pipeline.tracking.parent_run import ParentRun
from pipeline.tracking.sent import run_id_of


def describe_checkpoint(
    plan: FinetunePlan, engine: Engine, progress: Progress
) -> CheckpointManifest:
    """The manifest of the state at `progress`, without its files."""
    return build_manifest(
        plan.origin,
        engine.specs,
        step=progress.step,
        optimizer_step=engine.optimizer_steps(),
        consumed_rows=progress.consumed_rows,
        skipped=progress.skipped,
        recent_losses=progress.recent_losses,
        loss_scale=engine.loss_scale,
        tracking_run_id=run_id_of(plan.config.output),
        dev_error=progress.score,
        validation=progress.validation,
    )


def describe_run(plan: FinetunePlan, parent: ParentRun | None = None) -> dict[str, Any]:
    """The content of a start in the run's record: parameters, tags, data sets, and the parent."""
    return {
        **({} if parent is None else {"parent": parent.describe()}),
        "params": {
            **lineage.describe_code(plan.config),
            "grid.tp_size": plan.tp_size,
            "grid.dp_size": plan.dp_size,
            "start.description": plan.start.description,
            "start.fingerprint": plan.start.fingerprint,
            "data.fingerprint": plan.data_fingerprint,
            "data.tokenizer_sha256": plan.start.tokenizer_sha256,
            **account_parameters(plan.splits),
        },
        "tags": {"state": "running", **lineage.describe_launch()},
        "datasets": [
            *(
                lineage.describe_files(
                    *(name, split, file.files, file.sha256),
                    {"examples": len(file.examples), "records": file.num_lines, **file.counts},
                )
                for split, files in plan.splits.items()
                for name, file in files.items()
            ),
            *lineage.describe_ancestors(plan.start.record),
        ],
        "files": [],
        "status": "RUNNING",
    }
