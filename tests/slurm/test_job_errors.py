"""Errors that a user can fix end a job of `slurm/pretrain.sh` at once, with one message."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.conftest import ROOT, WriteRun, submit

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

STEPS = 240


def test_an_error_of_one_rank_is_reported_once_and_not_requeued(
    cluster: Cluster, write_run: WriteRun, tmp_path: Path
) -> None:
    config, path = write_run(STEPS)
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(
        f"""#!/bin/bash
        [[ $1 != pipeline/train.py ]] || exec {sys.executable} tests/faulty_rank.py "$@"
        exec {sys.executable} "$@"
        """
    )
    python.chmod(0o755)
    venv = str(tmp_path / "venv")
    job = submit(
        cluster, "pretrain.sh", tmp_path / "log", "--nodes=2", arguments=(path,), VENV=venv
    )
    fields = job.wait()
    assert (fields["JobState"], fields["ExitCode"]) == ("FAILED", "2:0"), job.text
    assert fields["Restarts"] == "0"
    assert job.text.count("came out wrong on rank 1") == 1
    assert "RuntimeError" not in job.text
    assert not list(config.output.glob("failures.json"))


@pytest.mark.parametrize(
    ("options", "override", "variables", "message"),
    [
        ((), "batch.global_rows=18", {}, "set batch.global_rows to 16 or 24"),
        ((), "data.path=nowhere", {}, "nowhere/manifest.json: no such file"),
        ((), "output=/proc/run", {}, "cannot write to /proc/run"),
        ((), "seed=7", {"VENV": "/nowhere"}, "no Python environment in /nowhere"),
        (("--gpus-per-node=2",), "seed=7", {}, "make them equal"),
    ],
)
def test_errors_end_the_job_at_once_with_one_message(
    cluster: Cluster,
    write_run: WriteRun,
    tmp_path: Path,
    options: tuple[str, ...],
    override: str,
    variables: dict[str, str],
    message: str,
) -> None:
    _, path = write_run(STEPS)
    job = submit(
        cluster,
        "pretrain.sh",
        tmp_path / "log",
        "--nodes=2",
        *options,
        arguments=(path, override),
        **variables,
    )
    fields = job.wait(60)
    assert fields["JobState"] == "FAILED"
    assert fields["ExitCode"] == "2:0"
    assert fields["Restarts"] == "0"
    assert message in job.text
    assert "Traceback" not in job.text


@pytest.mark.parametrize(
    ("name", "script"),
    [
        ("nvidia-smi", "case $1 in *memory*) echo 81559; echo 100;; *) echo 0;; esac"),
        ("rocm-smi", "echo device,Total,Used; echo card0,68702699520,1; echo card1,104857600,1"),
    ],
)
def test_the_plan_uses_the_memory_that_the_driver_shows(
    cluster: Cluster, write_run: WriteRun, tmp_path: Path, name: str, script: str
) -> None:
    _, path = write_run(STEPS)
    driver = tmp_path / "bin" / name
    driver.parent.mkdir()
    driver.write_text(f"#!/bin/sh\n{script}\n")
    driver.chmod(0o755)
    job = submit(
        cluster,
        "pretrain.sh",
        tmp_path / "log",
        "--gpus-per-node=1",
        arguments=(path,),
        PATH=f"{driver.parent}:{cluster.environment['PATH']}",
    )
    fields = job.wait(60)
    assert (fields["JobState"], fields["ExitCode"]) == ("FAILED", "2:0"), job.text
    assert "but one has 0.104858 GB" in job.text


def test_without_an_allocation_it_explains_how_to_submit() -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM")}
    done = subprocess.run(
        ["bash", "slurm/pretrain.sh", "configs/base.yaml"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "no allocation: submit this with 'sbatch" in done.stderr
