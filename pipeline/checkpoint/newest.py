"""The newest checkpoint of a run that verifies, the same on all ranks."""

import logging
from pathlib import Path

from model.parallel.grid import Grid
from model.parallel.json_exchange import broadcast_json
from pipeline.checkpoint.manifest import Checkpoint, find_checkpoint, read_manifest

logger = logging.getLogger(__name__)


def newest_checkpoint(folder: Path, grid: Grid) -> Checkpoint | None:
    """The newest checkpoint in `folder` that verifies; None where there is none.

    A collective: rank 0 verifies and tells the rest which one it is. Damaged checkpoints are logged
    and left where they are.
    """
    found: Checkpoint | None = None
    if grid.rank == 0:
        found, problems = find_checkpoint(folder)
        for problem in problems:
            logger.warning("%s; it is left where it is and skipped", problem)
    path = broadcast_json(None if found is None else str(found.path))
    if grid.rank != 0 and path is not None:
        found = Checkpoint(Path(path), read_manifest(Path(path)))
    return found
