"""What became of a child, read from its folder; and which checkpoints stay."""

import shutil

from data_prep.dataset.atomic import write_atomic
from data_prep.dataset.files import read_json
from pipeline.checkpoint.manifest import checkpoint_folder, list_checkpoints
from pipeline.finetuning.config import FinetuneConfig
from pipeline.finetuning.sweep.children import Child, all_children, sweep_of
from pipeline.finetuning.sweep.results import ChildResult, SweepResults
from pipeline.run.run_folder import DONE_NAME, checkpoints_folder
from pipeline.start.record import own_checkpoint
from pipeline.tracking.event_log import LOG_NAME, read_events

OUT_OF_MEMORY_NAME = "OUT_OF_MEMORY"
"""In the folder of a child: it ended like that, and why."""


def mark_out_of_memory(child: Child, reason: str) -> None:
    """Notes that a child ran out of memory, for the next launch; by any rank."""
    write_atomic(child.config.output / OUT_OF_MEMORY_NAME, reason + "\n")


def out_of_memory(child: Child) -> str | None:
    """The reason that `mark_out_of_memory` noted, if it did."""
    path = child.config.output / OUT_OF_MEMORY_NAME
    return path.read_text().strip() if path.exists() else None


def outcome_of(child: Child, error: str | None) -> ChildResult:
    """The result of a child that has ended; `error`: why it diverged."""
    result = ChildResult(
        name=child.name, setting=dict(child.setting), seed=child.seed, state="finished"
    )
    if error is not None:
        return result.model_copy(update={"state": "diverged", "error": error})
    if (reason := out_of_memory(child)) is not None:
        first_line = reason.partition("\n")[0]
        error = f"{first_line}; delete {child.config.output} to train it again"
        return result.model_copy(update={"state": "out_of_memory", "error": error})
    output = child.config.output
    newest = own_checkpoint(output)
    state = newest.manifest.validation if newest else None
    if state is None or state.best_score is None:
        return result
    return result.model_copy(
        update={
            "score": 1 - state.best_score,
            "best_step": state.best_step,
            "stopped_early": bool(read_json(output / DONE_NAME).get("stopped_early")),
            "metrics": _dev_metrics(child.config, state.best_step),
        }
    )


def _dev_metrics(config: FinetuneConfig, step: int | None) -> dict[str, float]:
    """The metrics on the dev files that were recorded at a step."""
    return {
        name: value
        for event, _ in read_events(config.output / LOG_NAME)
        if event["kind"] == "metrics" and event["step"] == step
        for name, value in event["values"].items()
        if name.startswith("dev_")
    }


def delete_checkpoints(config: FinetuneConfig, results: SweepResults) -> None:
    """Deletes the checkpoints of children that can no longer be the best, as `sweep.keep` says.

    While the sweep runs, the best child of each setting keeps its own; at the end the best child
    keeps the one with the lowest dev error.
    """
    if sweep_of(config).keep == "all":
        return
    kept = {one.best for one in results.settings}
    if results.is_finished:
        kept = {results.best}
    configs = {child.name: child.config for child in all_children(config)}
    for child in results.children:
        folder = checkpoints_folder(configs[child.name])
        if child.name not in kept:
            if folder.exists():
                shutil.rmtree(folder)
        elif results.is_finished and child.name == results.best:
            step = child.best_step
            best = None if step is None else checkpoint_folder(folder, step)
            for path in list_checkpoints(folder):
                if path != best:
                    shutil.rmtree(path)
