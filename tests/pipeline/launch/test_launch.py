"""Ranks from every launcher's environment, the check of the all-reduce, and CPU ranks."""

import os
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.distributed as dist

from configs.load import UserError
from pipeline.launch.all_reduce_check import check_all_reduce
from pipeline.launch.environment import read_launch, tasks_per_node
from tests.gloo import run_ranks

SRUN = {
    "SLURM_STEP_ID": "1",
    "SLURM_JOB_ID": "77",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "2",
    "SLURM_STEP_NUM_TASKS": "7",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2),3",
    "SLURM_STEP_NODELIST": "node[1-3]",
}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment without any launcher's variables; what a test adds is gone after it."""
    values: dict[str, str] = {}
    monkeypatch.setattr(os, "environ", values)
    return values


def test_a_task_of_srun_finds_its_place(environment: dict[str, str]) -> None:
    environment.update(SRUN, MASTER_ADDR="node1", MASTER_PORT="4000")
    found = read_launch()
    assert (found.rank, found.local_rank, found.world_size, found.local_size) == (5, 1, 7, 3)
    assert environment["RANK"] == "5"
    assert environment["MASTER_PORT"] == "4000"


def test_all_tasks_of_plain_srun_agree_on_address_and_port(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scontrol = tmp_path / "scontrol"
    scontrol.write_text('#!/bin/sh\n[ "$*" = "show hostnames node[1-3]" ] && echo "node1\nnode2"\n')
    scontrol.chmod(0o755)
    places = []
    for rank in ("0", "5"):
        environment.clear()
        environment.update(SRUN, SLURM_PROCID=rank, PATH=f"{tmp_path}:/usr/bin:/bin")
        monkeypatch.setenv("PATH", environment["PATH"])
        read_launch()
        places.append((environment["MASTER_ADDR"], environment["MASTER_PORT"]))
    assert places[0] == places[1] == ("node1", str(20000 + 16 * 77 + 1))


def test_sbatch_itself_is_no_task_of_srun(environment: dict[str, str]) -> None:
    environment.update({k: v for k, v in SRUN.items() if "STEP" not in k})
    assert read_launch().world_size == 1


def test_torchrun_and_deepspeed_come_before_slurm(environment: dict[str, str]) -> None:
    environment.update(SRUN, RANK="1", LOCAL_RANK="1", WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    environment.update(MASTER_ADDR="a", MASTER_PORT="1")
    assert read_launch().world_size == 2


OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_RANK": "3",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
    "PMIX_RANK": "3",
    "PMIX_NAMESPACE": "prterun-node1-4242@1",
}
MPICH = {"PMI_RANK": "3", "MPI_LOCALRANKID": "3", "PMI_SIZE": "4", "MPI_LOCALNRANKS": "4"}


def test_a_rank_of_open_mpi_finds_its_place(environment: dict[str, str]) -> None:
    ports = set()
    for rank in ("0", "3"):
        environment.clear()
        environment.update(OPEN_MPI, OMPI_COMM_WORLD_RANK=rank)
        found = read_launch()
        assert (found.rank, found.world_size, found.local_size) == (int(rank), 4, 4)
        assert environment["MASTER_ADDR"] == "127.0.0.1"
        ports.add(environment["MASTER_PORT"])
    assert len(ports) == 1


def test_mpirun_comes_before_the_step_of_its_daemons(environment: dict[str, str]) -> None:
    environment.update(SRUN, **OPEN_MPI)
    assert read_launch().rank == 3


@pytest.mark.parametrize("is_several_nodes", [False, True])
def test_mpich_is_read_once_the_meeting_point_is_set(
    environment: dict[str, str], is_several_nodes: bool
) -> None:
    environment.update(MPICH)
    if is_several_nodes:
        environment.update(MPI_LOCALNRANKS="2", MPI_LOCALRANKID="1")
    with pytest.raises(UserError, match="MASTER_PORT on all ranks") as refused:
        read_launch()
    assert ("MASTER_ADDR and" in str(refused.value)) == is_several_nodes
    environment.update(MASTER_ADDR="node1", MASTER_PORT="4000")
    found = read_launch()
    assert (found.rank, found.local_size) == (3, 2 if is_several_nodes else 4)
    assert environment["MASTER_ADDR"] == "node1"


@pytest.mark.parametrize(
    "name",
    [
        *("PMIX_RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK"),
        *("JSM_NAMESPACE_RANK", "PALS_RANKID", "FLUX_TASK_RANK"),
    ],
)
def test_a_rank_that_does_not_know_its_world_does_not_train_alone(
    environment: dict[str, str], name: str
) -> None:
    environment[name] = "0"
    with pytest.raises(UserError, match=f"{name} is set, so a launcher has started this process"):
        read_launch()


def test_pmi_variables_of_srun_change_nothing(environment: dict[str, str]) -> None:
    environment.update(SRUN, MASTER_ADDR="node1", MASTER_PORT="4000", PMI_RANK="5", PMIX_RANK="5")
    assert read_launch().world_size == 7


@pytest.mark.parametrize(
    ("text", "counts"), [("2(x3),1", [2, 2, 2, 1]), ("4", [4]), ("1,2(x2)", [1, 2, 2])]
)
def test_slurms_notation_of_tasks(text: str, counts: list[int]) -> None:
    assert tasks_per_node(text) == counts


def test_a_correct_all_reduce_passes() -> None:
    run_ranks(check_all_reduce, 3, torch.device("cpu"))


def break_all_reduce() -> str:
    real = dist.all_reduce

    def broken(tensor: torch.Tensor) -> None:
        real(tensor)
        if dist.get_rank() == 1:
            tensor[17] += 1

    with mock.patch.object(dist, "all_reduce", broken):
        try:
            check_all_reduce(torch.device("cpu"))
        except UserError as error:
            return str(error)
    return ""


def test_a_rank_whose_all_reduce_is_wrong_is_named() -> None:
    sound, wrong = run_ranks(break_all_reduce, 2)
    assert sound == ""
    assert "came out wrong on rank 1" in wrong
    assert "1 of 65,536 values" in wrong


def test_torch_keeps_the_number_of_gpus_that_the_parent_saw(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Fails when `pipeline.launch.local_ranks` needs no patch to hide CUDA from forked ranks."""
    monkeypatch.setattr(torch.cuda, "_cached_device_count", 1)
    monkeypatch.setattr(torch.cuda, "_is_compiled", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert torch.cuda.device_count() == 1


def sees_cuda() -> bool:
    return torch.cuda.is_available()


def test_a_cpu_rank_sees_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # as in a parent with a GPU
    assert run_ranks(sees_cuda, 1) == [False]
