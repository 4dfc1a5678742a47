"""Rank and world size of this process, from the environment that the launcher set.

Imports nothing heavy, so that a config error is reported before slow imports.
"""

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from configs.load import UserError
from pipeline.launch.mpi import mpi_variables, refuse_unreadable


@dataclass(frozen=True)
class Launch:
    """The place of a process in its launch, as deepspeed, torchrun, srun or mpirun set it."""

    rank: int
    local_rank: int
    world_size: int
    local_size: int
    """Ranks on this node."""


def read_launch() -> Launch:
    """This process's place; a process without a launcher is a world of one rank.

    Raises UserError if only some of the variables are set, or only those of a launcher that this
    function cannot read: no rank of several may take itself for the only one.
    """
    needed = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
    present = [name for name in needed if name in os.environ]
    if not present:
        found = _launcher_variables(os.environ)
        if found is None:
            os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()))
            return Launch(0, 0, 1, 1)
        os.environ.update(found)
    missing = [name for name in (*needed, "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise UserError(
            f"the environment has {', '.join(present)} but not {', '.join(missing)}: start with "
            "deepspeed, torchrun or slurm/pretrain.sh, or unset them all for one process"
        )
    rank, local_rank, world_size = (int(os.environ[name]) for name in needed)
    local_size = os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or "1"
    return Launch(rank, local_rank, world_size, int(local_size))


def _launcher_variables(environment: Mapping[str, str]) -> dict[str, str] | None:
    """The variables of this rank from those of mpirun or srun; None without a launcher."""
    found = mpi_variables(environment)  # first: mpirun starts its daemons with srun
    if found is None and "SLURM_STEP_ID" in environment:  # sbatch's own step has none
        return _slurm_task(environment)
    if found is None:
        refuse_unreadable(environment)
    return found


def _slurm_task(environment: Mapping[str, str]) -> dict[str, str]:
    """The launcher variables that follow from srun's own.

    Without MASTER_ADDR it is the first node of the step; without MASTER_PORT the port follows from
    the job and the step, so that all ranks compute the same one.
    """
    node = int(environment["SLURM_NODEID"])
    variables = {
        "RANK": environment["SLURM_PROCID"],
        "LOCAL_RANK": environment["SLURM_LOCALID"],
        "WORLD_SIZE": environment["SLURM_STEP_NUM_TASKS"],
        "LOCAL_WORLD_SIZE": str(tasks_per_node(environment["SLURM_STEP_TASKS_PER_NODE"])[node]),
    }
    if "MASTER_ADDR" not in environment:
        nodes = environment["SLURM_STEP_NODELIST"]
        command = ["scontrol", "show", "hostnames", nodes]
        names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        variables["MASTER_ADDR"] = names[0]
    if "MASTER_PORT" not in environment:
        seed = 16 * int(environment["SLURM_JOB_ID"]) + int(environment["SLURM_STEP_ID"])
        variables["MASTER_PORT"] = str(20000 + seed % 10000)
    return variables


def tasks_per_node(text: str) -> list[int]:
    """The number of tasks on each node, from Slurm's notation: "2(x3),1" is [2, 2, 2, 1]."""
    counts: list[int] = []
    for part in text.split(","):
        count, _, repeat = part.partition("(x")
        counts += [int(count)] * int(repeat.rstrip(")") or 1)
    return counts


def free_port() -> int:
    """A TCP port of this machine that nothing listens on now."""
    import socket

    with socket.socket() as listener:
        listener.bind(("", 0))
        port: int = listener.getsockname()[1]
        return port
