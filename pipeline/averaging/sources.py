"""Which checkpoints are averaged, and with which weights. Imports no torch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from configs.load import UserError
from pipeline.checkpoint.manifest import (
    MANIFEST_NAME,
    Checkpoint,
    list_checkpoints,
    read_manifest,
    verify,
)


@dataclass(frozen=True)
class Source:
    """A checkpoint that is averaged."""

    checkpoint: Checkpoint
    weight: float
    """Relative to those of the other checkpoints."""


def find_checkpoints(paths: Sequence[Path], last: int) -> list[Checkpoint]:
    """The checkpoints that `paths` name, in their order and each once; every file is verified.

    A path is the folder of a checkpoint, or of a run: its `last` newest ones, by ascending step.
    Raises UserError for a damaged one, and for a run that has fewer.
    """
    if last < 1:
        raise UserError(f"--last {last}: at least 1 checkpoint of each run")
    found = [folder for path in paths for folder in _folders(path, last)]
    for number, folder in enumerate(found):
        if folder.resolve() in {other.resolve() for other in found[:number]}:
            raise UserError(f"{folder}: given twice; give it a larger weight instead (--weights)")
    return [Checkpoint(folder, verify(folder)) for folder in found]


def with_weights(
    checkpoints: Sequence[Checkpoint], weights: Sequence[float] | None, decay: float | None
) -> list[Source]:
    """The checkpoints with given weights, with exponential ones, or (both None) with equal ones.

    Exponential: the last one weighs 1, each one before it `decay` times that after it. Raises
    UserError for weights that do not fit.
    """
    if weights is not None and decay is not None:
        raise UserError("--weights and --decay exclude each other")
    if decay is not None:
        if not 0 < decay <= 1:
            raise UserError(f"--decay {decay:g}: more than 0, and at most 1")
        weights = [decay**age for age in reversed(range(len(checkpoints)))]
    elif weights is None:
        weights = [1.0] * len(checkpoints)
    if len(weights) != len(checkpoints):
        names = ", ".join(str(checkpoint.path) for checkpoint in checkpoints)
        raise UserError(f"{len(weights)} weights for {len(checkpoints)} checkpoints: {names}")
    if not all(math.isfinite(weight) and weight > 0 for weight in weights):
        raise UserError(f"--weights {' '.join(f'{w:g}' for w in weights)}: each more than 0")
    return [Source(*pair) for pair in zip(checkpoints, weights, strict=True)]


def _folders(path: Path, last: int) -> list[Path]:
    if (path / MANIFEST_NAME).exists():
        return [path]
    found = list_checkpoints(path / "checkpoints")
    if not found:
        raise UserError(f"{path}: neither a checkpoint nor the folder of a run with checkpoints")
    if len(found) < last:
        names = ", ".join(folder.name for folder in found)
        raise UserError(
            f"{path}: has {len(found)} checkpoints ({names}), fewer than --last {last}; "
            "checkpoint.keep_last and keep_every_steps keep more"
        )
    for folder in found[-last:]:
        read_manifest(folder)  # one that is not readable is named before any file is hashed
    return found[-last:]
