"""The checkpoint of a run that a command is about: the newest, the best, or that of a step."""

import logging
from pathlib import Path

from configs.load import UserError
from pipeline.checkpoint.best import find_best
from pipeline.checkpoint.manifest import (
    Checkpoint,
    checkpoint_folder,
    find_checkpoint,
    list_checkpoints,
    verify,
)

logger = logging.getLogger(__name__)


def chosen_checkpoint(folder: Path, step: int | None = None, is_best: bool = False) -> Checkpoint:
    """The checkpoint of `step`, the one with the best score (`is_best`), or else the newest.

    Every file is verified. Raises UserError, which names the steps that are there, if there is none
    or it is damaged; a damaged newest one is logged, and the one before it taken.
    """
    if step is not None and is_best:
        raise UserError("--step and --best exclude each other")
    if step is not None:
        path = checkpoint_folder(folder, step)
        if not path.exists():
            raise UserError(f"{folder}: no checkpoint of step {step}; there are {_steps(folder)}")
        return Checkpoint(path, verify(path))
    if is_best:
        best = find_best(folder)
        if best is None:
            raise UserError(
                f"{folder}: no complete checkpoint whose held-out loss (fine-tuning: dev error) is "
                f"known; there are {_steps(folder)}"
            )
        return best
    found, problems = find_checkpoint(folder)
    for problem in problems:
        logger.warning("%s; skipped", problem)
    if found is None:
        raise UserError(f"{folder}: no complete checkpoint; train first")
    return found


def _steps(folder: Path) -> str:
    return ", ".join(path.name for path in list_checkpoints(folder)) or "none"
