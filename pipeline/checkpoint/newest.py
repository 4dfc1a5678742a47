"""The newest checkpoint of a run that verifies, the same on all ranks."""

import torch.distributed as dist

from model.parallel.grid import Grid
from pipeline.checkpoint.manifest import Checkpoint, find_checkpoint
from pipeline.run.config import RunConfig
from pipeline.run.run_folder import checkpoints_folder


def newest_checkpoint(config: RunConfig, grid: Grid) -> Checkpoint | None:
    """The newest checkpoint of the run that verifies: rank 0 looks, all ranks get its answer."""
    found: list[Checkpoint | None] = [None]
    if grid.rank == 0:
        found[0], problems = find_checkpoint(checkpoints_folder(config))
        for problem in problems:
            print(f"warning: {problem}; it is left where it is and passed over", flush=True)
    dist.broadcast_object_list(found, src=0)
    return found[0]
