"""The newest checkpoint of a run that verifies, the same on all ranks."""

import logging
from pathlib import Path

import torch.distributed as dist

from model.parallel.grid import Grid
from pipeline.checkpoint.manifest import Checkpoint, find_checkpoint

logger = logging.getLogger(__name__)


def newest_checkpoint(folder: Path, grid: Grid) -> Checkpoint | None:
    """The newest checkpoint in `folder` that verifies; None where there is none.

    A collective: rank 0 verifies and broadcasts its answer. Damaged checkpoints are logged and
    left where they are.
    """
    found: list[Checkpoint | None] = [None]
    if grid.rank == 0:
        found[0], problems = find_checkpoint(folder)
        for problem in problems:
            logger.warning("%s; it is left where it is and skipped", problem)
    dist.broadcast_object_list(found, src=0)
    return found[0]
