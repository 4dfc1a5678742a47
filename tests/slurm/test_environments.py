"""The Python of a job: a container, a copy of the environment on each node, modules."""

import re
import sys
from pathlib import Path

import pytest

from pipeline.run.run_folder import is_done
from tests.data_prep.corpora import hashes_of
from tests.slurm.cluster import Cluster
from tests.slurm.conftest import WriteRun, submit
from tests.slurm.data_runs import data_config
from tests.slurm.programs import program

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

STEPS = 4


def stand_in_for_apptainer(folder: Path, calls: Path) -> Path:
    """It runs this Python, without Slurm's commands, and notes each of its calls."""
    return program(
        folder / "bin" / "apptainer",
        f'''echo "$*" >> {calls}
while [[ $1 != *.sif ]]; do shift; done
[[ $2 == python-of-image ]] || exit 9
PATH={folder}/no-slurm exec {sys.executable} "${{@:3}}"''',
    )


def test_python_runs_inside_a_container(
    cluster: Cluster, write_run: WriteRun, tmp_path: Path
) -> None:
    config, path = write_run(STEPS)
    image = tmp_path / "encoder image.sif"
    image.write_text("")
    calls = tmp_path / "calls"
    engine = stand_in_for_apptainer(tmp_path, calls)
    job = submit(
        cluster,
        "pretrain.sh",
        tmp_path / "log",
        arguments=(path,),
        PATH=f"{engine.parent}:{cluster.environment['PATH']}",
        CONTAINER=str(image),
        CONTAINER_PYTHON="python-of-image",
        CONTAINER_OPTIONS="--bind /data --home /data",
        VENV="/nowhere",
    )
    fields = job.wait(120)
    assert fields["JobState"] == "COMPLETED", job.text
    assert is_done(config)
    lines = calls.read_text().splitlines()
    assert all(line.startswith("exec --bind ") for line in lines)  # no accelerators
    assert all(f"--bind /data --home /data {image} python-of-image" in line for line in lines)
    for module in ("pipeline.plan", "pipeline.node_check", "pipeline/train.py", "slurm_job after"):
        assert any(module in line for line in lines), module


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"CONTAINER": "/no/image.sif"}, "no image /no/image.sif on"),
        ({"CONTAINER": "/bin/sh"}, "has neither apptainer nor singularity"),
        ({"CONTAINER": "/bin/sh", "LOCAL_VENV": "/tmp"}, "CONTAINER and LOCAL_VENV: give one"),
        ({"MODULES": "cuda/12.8 gcc"}, "MODULES=cuda/12.8 gcc, but .* has no command module"),
        ({"LOCAL_VENV": "/proc/nowhere"}, "could not be unpacked to /proc/nowhere on every node"),
    ],
)
def test_what_is_missing_is_named(
    cluster: Cluster,
    write_run: WriteRun,
    tmp_path: Path,
    variables: dict[str, str],
    message: str,
) -> None:
    _, path = write_run(STEPS)
    small = program(tmp_path / "venv" / "bin" / "python", f'exec {sys.executable} "$@"').parents[1]
    variables = {"VENV": str(small), **variables}
    job = submit(cluster, "pretrain.sh", tmp_path / "log", arguments=(path,), **variables)
    fields = job.wait(60)
    assert (fields["JobState"], fields["ExitCode"]) == ("FAILED", "2:0"), job.text
    assert re.search(message, job.text), job.text


def test_each_node_has_its_own_copy_of_the_environment(
    cluster: Cluster, write_run: WriteRun, tmp_path: Path
) -> None:
    config, path = write_run(STEPS)
    used = tmp_path / "used"
    venv = program(
        tmp_path / "venv" / "bin" / "python",
        f'echo "$0" >> {used}; exec {sys.executable} "$@"',
    ).parents[1]
    local = tmp_path / "local scratch"
    job = submit(
        cluster,
        "pretrain.sh",
        tmp_path / "log",
        "--nodes=2",
        arguments=(path,),
        VENV=str(venv),
        LOCAL_VENV=str(local),
    )
    fields = job.wait(120)
    assert fields["JobState"] == "COMPLETED", job.text
    assert is_done(config)
    assert set(used.read_text().splitlines()) == {f"{local}/venv-{job.job_id}/bin/python"}
    assert list(local.iterdir()) == []  # removed at the end
    assert (tmp_path / "venv.tar").exists()


def test_data_preparation_runs_inside_a_container(
    cluster: Cluster, made: Path, tmp_path: Path
) -> None:
    path = data_config(tmp_path, made)
    image = tmp_path / "image.sif"
    image.write_text("")
    engine = stand_in_for_apptainer(tmp_path, tmp_path / "calls")
    job = submit(
        cluster,
        "data_prep.sh",
        tmp_path / "log",
        "--nodes=2",
        arguments=(path,),
        PATH=f"{engine.parent}:{cluster.environment['PATH']}",
        CONTAINER=str(image),
        CONTAINER_PYTHON="python-of-image",
        VENV="/nowhere",
    )
    assert job.wait(200)["JobState"] == "COMPLETED", job.text
    assert hashes_of(tmp_path / "rows") == hashes_of(made / "rows")
    calls = (tmp_path / "calls").read_text()
    assert calls.count(" -m dask worker ") == 2


def test_data_preparation_runs_from_a_copy_on_each_node(
    cluster: Cluster, made: Path, tmp_path: Path
) -> None:
    path = data_config(tmp_path, made)
    used, local, scratch = (tmp_path / name for name in ("used", "local", "scratch"))
    scratch.mkdir()
    venv = program(
        tmp_path / "venv" / "bin" / "python", f'echo "$0" >> {used}; exec {sys.executable} "$@"'
    ).parents[1]
    job = submit(
        cluster,
        "data_prep.sh",
        tmp_path / "log",
        "--nodes=2",
        arguments=(path,),
        VENV=str(venv),
        LOCAL_VENV=str(local),
        LOCAL_SCRATCH=str(scratch),
    )
    assert job.wait(200)["JobState"] == "COMPLETED", job.text
    assert hashes_of(tmp_path / "rows") == hashes_of(made / "rows")
    assert set(used.read_text().splitlines()) == {f"{local}/venv-{job.job_id}/bin/python"}
    assert list(local.iterdir()) == []
    # The signal reached the workers, which are not the job's first step.
    assert (scratch / "dask-scratch-space").is_dir()
    assert not [found for found in scratch.rglob("worker-*") if found.is_dir()]
