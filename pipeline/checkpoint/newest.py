"""The newest checkpoint of a run that verifies, the same on all ranks."""

import logging
from pathlib import Path
from typing import Any

from configs.load import UserError
from model.parallel.grid import Grid
from model.parallel.json_exchange import broadcast_json, gather_json
from pipeline.checkpoint.manifest import (
    Checkpoint,
    CheckpointManifest,
    first_problem,
    list_checkpoints,
    read_manifest,
)

logger = logging.getLogger(__name__)


def newest_checkpoint(folder: Path, grid: Grid) -> Checkpoint | None:
    """The newest checkpoint in `folder` that verifies; None where there is none.

    A collective: rank 0 reads the manifests, every rank hashes its share of the files. Damaged
    checkpoints are logged and left where they are. A file that is there and cannot be read is no
    damage: it raises OSError, since an older checkpoint would repeat steps for no reason.
    """
    paths = list_checkpoints(folder) if grid.rank == 0 else []
    while True:
        tree = broadcast_json(_next_readable(paths) if grid.rank == 0 else None)
        if tree is None:
            return None
        manifest = CheckpointManifest.model_validate(tree["manifest"])
        checkpoint = Checkpoint(Path(tree["path"]), manifest)
        problem = problem_of_any_rank(checkpoint, grid)
        if problem is None:
            return checkpoint
        _skip(problem)


def problem_of_any_rank(checkpoint: Checkpoint, grid: Grid) -> str | None:
    """The first file that is missing or differs, and how, the same on all ranks.

    A collective: every rank hashes its share of the files.
    """
    mine = checkpoint.manifest.all_files[grid.rank :: grid.world_size]
    found = gather_json(first_problem(checkpoint.path, mine))
    return next((problem for problem in found if problem is not None), None)


def _next_readable(paths: list[Path]) -> dict[str, Any] | None:
    """The last one of `paths` that has a readable manifest; it and later ones are removed."""
    while paths:
        path = paths.pop()
        try:
            return {"path": str(path), "manifest": read_manifest(path).model_dump(mode="json")}
        except UserError as error:
            _skip(str(error))
    return None


def _skip(problem: str) -> None:
    logger.warning("%s; it is left where it is and skipped", problem)
