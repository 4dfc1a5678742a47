"""Where this process stands in the launch: one source of truth, the launcher's environment.

Imports nothing heavy, so that a config error is reported before a slow import.
"""

import os
from dataclasses import dataclass

from configs.load import UserError


@dataclass(frozen=True)
class Launch:
    """Rank facts as deepspeed, torchrun or srun's wrapper set them."""

    rank: int
    local_rank: int
    world_size: int
    local_size: int
    """Ranks on this node."""


def read_launch() -> Launch:
    """This process's place; a process that no launcher started is a world of one rank.

    Raises UserError for an environment that is set by half.
    """
    needed = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
    present = [name for name in needed if name in os.environ]
    if not present:
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(_free_port()))
        return Launch(0, 0, 1, 1)
    missing = [name for name in (*needed, "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise UserError(
            f"the environment has {', '.join(present)} but not {', '.join(missing)}: start with "
            "deepspeed, torchrun or slurm/pretrain.sh, or unset them all for one process"
        )
    rank, local_rank, world_size = (int(os.environ[name]) for name in needed)
    local_size = os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or "1"
    return Launch(rank, local_rank, world_size, int(local_size))


def _free_port() -> int:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
