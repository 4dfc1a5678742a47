"""The Python of `data_prep.sh`, with programs that stand in for Slurm, containers and Python."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.slurm.conftest import ROOT
from tests.slurm.programs import program

pytestmark = pytest.mark.timeout(100)

PYTHON = """
echo "$0 $*" >>{folder}/used
case "$*" in
  *data_prep.scheduler_key*) mkdir -p "${{@: -1}}" ;;
  *"-m dask"*) exec sleep 60 ;;
  *--scheduler-file*)
    until [[ $(grep -c "python -m dask" {folder}/used) == 2 ]]; do sleep 0.01; done
    [[ ! -v CLIENT_WAITS ]] || {{ kill -USR1 $PPID; exec sleep 60; }} ;;
  *data_prep.slurm_job*) exit 75 ;;
esac
"""
SRUN = """
while [[ $1 == --* ]]; do shift; done
[[ $* != *data_prep_node.sh* ]] || echo $$ >{folder}/step
exec setsid "$@"
"""
SCANCEL = """
until [[ -s {folder}/step ]]; do sleep 0.01; done
echo "$*" >>{folder}/signals
kill -TERM -- "-$(cat {folder}/step)"
"""
SCONTROL = """
[[ $1 != show ]] || exec echo node1
echo "$*: $(ls "{folder}/local")" >>{folder}/requeued
kill -KILL $PPID
"""
APPTAINER = """
echo "$*" >>{folder}/apptainer.calls
while [[ $1 != *.sif ]]; do shift; done
[[ $2 == python-of-image ]] || exit 9
exec {folder}/venv/bin/python "${{@:3}}"
"""
COMMANDS = (
    "data_prep.run data.yaml --dry-run",
    "data_prep.scheduler_key",
    "dask scheduler",
    "dask worker",
    "data_prep.run data.yaml --scheduler-file",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The root of a repository with the scripts, and programs that stand in for others."""
    shutil.copytree(ROOT / "slurm", tmp_path / "slurm")
    (tmp_path / "data_prep").mkdir()
    (tmp_path / "data_prep/run.py").touch()
    for name in ("local", "scratch"):
        (tmp_path / name).mkdir()
    for name, script in (("srun", SRUN), ("scancel", SCANCEL), ("scontrol", SCONTROL)):
        program(tmp_path / "bin" / name, script.format(folder=tmp_path))
    program(tmp_path / "venv/bin/python", PYTHON.format(folder=tmp_path))
    return tmp_path


def submit(folder: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    """The end of a job of one node."""
    job = {"JOB_ID": "77", "JOB_NUM_NODES": "1", "JOB_NODELIST": "node1", "CPUS_PER_TASK": "1"}
    return subprocess.run(
        ["bash", "slurm/data_prep.sh", "data.yaml"],
        cwd=folder,
        env={
            **{name: value for name, value in os.environ.items() if "SLURM" not in name},
            **{f"SLURM_{name}": value for name, value in job.items()},
            "SLURMD_NODENAME": "node1",
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "VENV": str(folder / "venv"),
            **variables,
        },
        capture_output=True,
        text=True,
        check=False,
    )


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_every_python_of_the_job_runs_in_the_container(folder: Path) -> None:
    program(folder / "bin/apptainer", APPTAINER.format(folder=folder))
    (folder / "an image.sif").touch()
    done = submit(
        folder,
        CONTAINER=str(folder / "an image.sif"),
        CONTAINER_PYTHON="python-of-image",
        CONTAINER_OPTIONS="--bind /data",
        LOCAL_SCRATCH=str(folder / "scratch"),
        VENV="/nowhere",
    )
    assert done.returncode == 0, done.stderr
    binds = f"--bind {folder} --bind {folder}/scratch --pwd {folder} --bind /data"
    start = f"exec {binds} {folder}/an image.sif python-of-image "
    calls = lines_of(folder / "apptainer.calls")
    assert all(call.startswith(start) for call in calls), calls
    assert calls[0] == f"{start}-c import dask, distributed"  # no torch
    assert {c for c in COMMANDS if any(c in call for call in calls)} == set(COMMANDS)
    assert len(calls) == len(lines_of(folder / "used")) == 1 + len(COMMANDS)
    assert lines_of(folder / "signals") == ["--signal=TERM 77"]


def test_each_node_runs_its_own_copy_and_modules_are_loaded(folder: Path) -> None:
    module = {"BASH_FUNC_module%%": f"() {{ echo $* >>{folder}/modules; }}", "MODULES": "gcc hdf5"}
    done = submit(folder, LOCAL_VENV=str(folder / "local"), **module)
    assert done.returncode == 0, done.stderr
    used = lines_of(folder / "used")
    assert all(line.startswith(f"{folder}/local/venv-77/bin/python -m ") for line in used), used
    assert {c for c in COMMANDS if any(c in line for line in used)} == set(COMMANDS)
    assert not list((folder / "local").iterdir())  # removed at the end
    assert lines_of(folder / "modules") == ["load gcc hdf5"]


def test_copies_are_removed_before_the_job_is_requeued(folder: Path) -> None:
    submit(folder, LOCAL_VENV=str(folder / "local"), CLIENT_WAITS="")
    assert lines_of(folder / "requeued") == ["requeue 77: "]
    assert "local/venv-77/bin/python -m data_prep.slurm_job" in lines_of(folder / "used")[-1]


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"VENV": "/nowhere"}, "no Python environment in /nowhere on .*: make venv"),
        ({"CONTAINER": "/no/image.sif"}, "no image /no/image.sif on"),
        ({"CONTAINER": "/bin/sh", "LOCAL_VENV": "/tmp"}, "CONTAINER and LOCAL_VENV: give one"),
        ({"MODULES": "gcc"}, "MODULES=gcc, but .* has no command module"),
        ({"LOCAL_VENV": "/proc/nowhere"}, "could not be unpacked to /proc/nowhere on every node"),
    ],
)
def test_what_is_missing_is_named(folder: Path, variables: dict[str, str], message: str) -> None:
    done = submit(folder, **variables)
    assert done.returncode == 2
    assert re.search(f"^error: .*{message}", done.stderr, re.MULTILINE), done.stderr
    assert not (folder / "used").exists()
