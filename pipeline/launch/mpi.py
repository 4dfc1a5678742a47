"""Rank variables of mpirun and its relatives: read where they say enough, else refused.

A process that overlooked them would take itself for the only one: every rank would train the whole
run alone, all of them in one folder.
"""

import hashlib
from collections.abc import Mapping

from configs.load import UserError

FAMILIES = (
    # rank, rank on its node, number of ranks, ranks on its node
    (  # Open MPI
        *("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"),
        *("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ),
    ("PMI_RANK", "MPI_LOCALRANKID", "PMI_SIZE", "MPI_LOCALNRANKS"),  # MPICH, Intel MPI
    (  # MVAPICH
        *("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_LOCAL_RANK"),
        *("MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE"),
    ),
)
UNREADABLE = (
    *("PMIX_RANK", "PMI_RANK", "PMI_ID", "MPI_RANKID", "PALS_RANKID", "ALPS_APP_PE"),
    *("JSM_NAMESPACE_RANK", "FLUX_TASK_RANK"),
)
"""Ranks of launchers that do not also say how many ranks there are on each node."""
LAUNCH_NAMES = ("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "OMPI_MCA_orte_hnp_uri")
"""Values that all ranks of one launch have, and no other launch on the machine."""
INSTEAD = "start with deepspeed, torchrun, srun or slurm/pretrain.sh"


def mpi_variables(environment: Mapping[str, str]) -> dict[str, str] | None:
    """The launcher variables that follow from those of mpirun; None without any of mpirun's.

    Raises UserError if they do not say where the ranks are to meet.
    """
    for family in FAMILIES:
        rank, local_rank, world_size, local_size = (environment.get(name) for name in family)
        if rank is None or local_rank is None or world_size is None or local_size is None:
            continue
        place = {
            "RANK": rank,
            "LOCAL_RANK": local_rank,
            "WORLD_SIZE": world_size,
            "LOCAL_WORLD_SIZE": local_size,
        }
        is_one_node = world_size == local_size
        return place | _meeting_point(environment, family[0], is_one_node)
    return None


def refuse_unreadable(environment: Mapping[str, str]) -> None:
    """Raises UserError if a launcher numbered this process and its variables cannot be read."""
    partly = (family[0] for family in FAMILIES)
    found = [name for name in (*partly, *UNREADABLE) if name in environment]
    if found:
        raise UserError(
            f"{found[0]} is set, so a launcher has started this process as one of several, but its "
            f"variables do not say where all ranks are: {INSTEAD}, or set RANK, LOCAL_RANK, "
            "WORLD_SIZE, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT for each rank. For one "
            f"process alone, unset {found[0]}"
        )


def _meeting_point(
    environment: Mapping[str, str], rank_name: str, is_one_node: bool
) -> dict[str, str]:
    """MASTER_ADDR and MASTER_PORT where they are not set; equal on all ranks."""
    variables = {}
    if "MASTER_ADDR" not in environment and is_one_node:
        variables["MASTER_ADDR"] = "127.0.0.1"
    names = [environment[name] for name in LAUNCH_NAMES if name in environment]
    if "MASTER_PORT" not in environment and names:
        digest = hashlib.blake2b(names[0].encode(), digest_size=4).digest()
        variables["MASTER_PORT"] = str(20000 + int.from_bytes(digest, "little") % 10000)
    present = {**environment, **variables}
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in present]
    if missing:
        raise UserError(
            f"mpirun (found by {rank_name}) does not say where the ranks are to meet: set "
            f"{' and '.join(missing)} on all ranks (Open MPI: mpirun -x NAME=VALUE; MPICH: mpiexec "
            f"-genv NAME VALUE; the address is that of the first node), or {INSTEAD}"
        )
    return variables
