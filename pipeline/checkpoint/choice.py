"""The checkpoint of a run that a command works on: the newest, that of a step, or the best.

Imports no torch.
"""

import argparse
import logging
from pathlib import Path

from configs.load import UserError
from pipeline.checkpoint.best import find_best
from pipeline.checkpoint.manifest import (
    Checkpoint,
    checkpoint_folder,
    find_checkpoint,
    list_checkpoints,
    read_manifest,
    verify,
)

MAX_SHOWN = 20
"""Steps that a message lists."""

logger = logging.getLogger(__name__)


def add_choice(parser: argparse.ArgumentParser) -> None:
    """Adds the options ``--step`` and ``--best``."""
    parser.add_argument(
        "--step", type=int, metavar="N", help="the checkpoint of this step (default: the newest)"
    )
    parser.add_argument(
        "--best",
        action="store_true",
        help="the checkpoint with the lowest held-out loss (fine-tuning: dev error)",
    )


def choose_checkpoint(folder: Path, step: int | None = None, best: bool = False) -> Checkpoint:
    """The checkpoint of `step` in `folder`, the best one, or the newest complete one.

    Its files are hashed; damaged ones that are skipped are logged. Raises UserError, with the steps
    that there are, for a step that is gone, and where no checkpoint has a score or is complete.
    """
    if best and step is not None:
        raise UserError("--step and --best: give one of them")
    if step is not None:
        return _checkpoint_of(folder, step)
    if best:
        found = find_best(folder)
        if found is None:
            raise UserError(
                f"{folder}: no checkpoint with a held-out loss or a dev error"
                f"{_steps_text(folder)}; evaluate at the steps that are saved, or choose one by "
                "--step"
            )
        return found
    newest, problems = find_checkpoint(folder)
    for problem in problems:
        logger.warning("%s; skipped", problem)
    if newest is None:
        raise UserError(f"{folder}: no complete checkpoint; train first")
    return newest


def _checkpoint_of(folder: Path, step: int) -> Checkpoint:
    path = checkpoint_folder(folder, step)
    if not path.exists():
        raise UserError(f"{folder}: no checkpoint of step {step}{_steps_text(folder)}")
    return Checkpoint(path, verify(path))


def _steps_text(folder: Path) -> str:
    """The steps of the complete checkpoints in `folder`, with their scores, for a message."""
    found = []
    for path in list_checkpoints(folder):
        try:
            manifest = read_manifest(path)
        except (UserError, OSError):
            continue  # not complete, or not readable: it is no choice
        score = manifest.selection_score
        found.append(f"{manifest.step}" + ("" if score is None else f" ({score:.4f})"))
    if not found:
        return "; there is no complete one"
    shown = found if len(found) <= MAX_SHOWN else [*found[:2], "...", *found[2 - MAX_SHOWN :]]
    kind = " (held-out loss or dev error)" * any("(" in text for text in found)
    return f"; there are those of steps{kind}: {', '.join(shown)}"
