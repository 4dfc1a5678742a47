"""`slurm/pretrain.sh` as users submit it, on a real Slurm: it finishes, whatever happens to it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.checkpoint.manifest import find_checkpoint, newest_step
from pipeline.run.run_folder import checkpoints_folder, is_done
from pipeline.tracking.sender import run_id_of
from tests.gloo import run_ranks
from tests.pipeline.training_run import (
    assert_same_bits,
    final_state,
    make_config,
    metrics,
    pretrain,
)
from tests.slurm.conftest import ROOT, last_step, submit

pytestmark = pytest.mark.cluster

STEPS = 240
NUM_PREEMPTIONS = int(os.environ.get("NUM_PREEMPTIONS", "2"))


@pytest.fixture(scope="module")
def undisturbed(rows, tmp_path_factory):
    """The same run on two forked ranks, without Slurm and without any disturbance."""
    config = make_config(
        rows,
        tmp_path_factory.mktemp("undisturbed") / "run",
        total_rows=16 * STEPS,
        evaluation={"every_steps": STEPS, "rows_per_source": 4},
    )
    run_ranks(pretrain, 2, config)
    return config


def history(config) -> list[tuple[int, float]]:
    """(step, loss) of the one MLflow run there is."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=config.tracking.uri)
    experiment = client.get_experiment_by_name(config.tracking.experiment)
    runs = client.search_runs([experiment.experiment_id])
    assert [run.info.run_id for run in runs] == [run_id_of(config.output)]
    values = client.get_metric_history(runs[0].info.run_id, "loss")
    return [(metric.step, metric.value) for metric in values]


def tags(config) -> dict[str, str]:
    from mlflow import MlflowClient

    found = MlflowClient(tracking_uri=config.tracking.uri).get_run(run_id_of(config.output))
    return dict(found.data.tags)


def test_two_nodes_train_to_the_same_bits_as_two_local_ranks(
    cluster, written, undisturbed, tmp_path
):
    config, path = written(STEPS)
    job = submit(cluster, "pretrain.sh", tmp_path / "log", "--nodes=2", arguments=(path,))
    assert job.wait()["JobState"] == "COMPLETED", job.text
    assert is_done(config)
    assert_same_bits(final_state(undisturbed), final_state(config))
    assert "node node1: fit" in job.text
    assert "node node2: fit" in job.text
    assert "torch 2" in job.text
    assert history(config) == list(enumerate(metrics(undisturbed, "loss"), start=1))
    assert tags(config)["state"] == "finished"
    assert tags(config)["slurm.job_id"] == job.job_id


def test_preempted_and_requeued_it_ends_with_the_same_bits(cluster, written, undisturbed, tmp_path):
    config, path = written(STEPS, checkpoint={"every_steps": 1000})
    job = submit(cluster, "pretrain.sh", tmp_path / "log", "--nodes=2", arguments=(path,))
    for number in range(NUM_PREEMPTIONS):
        beyond = newest_step(config) + 10
        job.wait_until(lambda beyond=beyond: last_step(config) >= beyond, f"step {beyond}")
        cluster.output("scancel", "--batch", "--signal=USR1", job.job_id)
        job.wait_until(
            lambda count=number + 1: job.text.count("requeueing job") == count, "the requeue"
        )
    fields = job.wait()
    assert fields["JobState"] == "COMPLETED", job.text
    assert fields["Restarts"] == str(NUM_PREEMPTIONS)
    assert_same_bits(final_state(undisturbed), final_state(config))
    assert history(config) == list(enumerate(metrics(undisturbed, "loss"), start=1))


def test_at_the_time_limit_it_saves_and_goes_on_in_the_next_try(cluster, written, tmp_path):
    config, path = written(2500, evaluation={"every_steps": 2500, "rows_per_source": 4})
    limits = ("--nodes=1", "--time=1", "--signal=B:USR1@5")
    job = submit(cluster, "pretrain.sh", tmp_path / "log", *limits, arguments=(path,))
    job.wait_until(lambda: "requeueing job" in job.text, "the time limit")
    assert "the time is nearly up" in job.text
    assert newest_step(config) == last_step(config) > 0
    job.wait_until(lambda: "goes on behind step" in job.text, "the next try")
    cluster.output("scancel", job.job_id)
    assert job.wait()["JobState"] == "CANCELLED"


def test_cancelled_it_saves_first_and_goes_on_at_another_number_of_nodes(
    cluster, written, undisturbed, tmp_path
):
    config, path = written(STEPS, checkpoint={"every_steps": 1000})
    job = submit(cluster, "pretrain.sh", tmp_path / "log", "--nodes=2", arguments=(path,))
    job.wait_until(lambda: last_step(config) >= 10, "step 10")
    cluster.output("scancel", job.job_id)
    assert job.wait()["JobState"] == "CANCELLED"
    assert newest_step(config) >= 10
    assert not is_done(config)
    checkpoint, problems = find_checkpoint(checkpoints_folder(config))
    assert checkpoint is not None
    assert not problems
    fewer = submit(cluster, "pretrain.sh", tmp_path / "log2", "--nodes=1", arguments=(path,))
    assert fewer.wait()["JobState"] == "COMPLETED", fewer.text
    assert f"goes on behind step {checkpoint.manifest.step}" in fewer.text
    assert metrics(config, "loss") == pytest.approx(metrics(undisturbed, "loss"), rel=1e-5)
    assert [step for step, _ in history(config)] == list(range(1, STEPS + 1))


def test_a_lost_node_is_survived(cluster, written, undisturbed, tmp_path):
    config, path = written(STEPS, checkpoint={"every_steps": 20})
    job = submit(cluster, "pretrain.sh", tmp_path / "log", "--nodes=2", arguments=(path,))
    job.wait_until(lambda: newest_step(config) >= 20, "the checkpoint of step 20")
    cluster.fail("node2")
    try:
        job.wait_until(lambda: cluster.job(job.job_id)["Restarts"] == "1", "the requeue")
    finally:
        cluster.start("node2")
    assert job.wait()["JobState"] == "COMPLETED", job.text
    assert_same_bits(final_state(undisturbed), final_state(config))
    assert history(config) == list(enumerate(metrics(undisturbed, "loss"), start=1))


def test_a_rank_that_hangs_is_ended_and_its_stacks_are_shown(cluster, written, tmp_path):
    config, path = written(STEPS, checkpoint={"every_steps": 20})
    job = submit(
        cluster, "pretrain.sh", tmp_path / "log", "--nodes=2", arguments=(path,), SILENCE_S="20"
    )
    job.wait_until(lambda: newest_step(config) >= 20, "the checkpoint of step 20")
    for process in training_processes(path)[:1]:
        os.kill(process, signal.SIGSTOP)
    assert job.wait()["JobState"] == "COMPLETED", job.text
    assert "ending all ranks" in job.text
    assert 'deepspeed_engine.py", line' in job.text  # where the other rank waited
    assert "failure 1 of at most 3" in job.text


def training_processes(config_path: str) -> list[int]:
    """Process ids of the ranks that train the config, in this machine's numbering."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"pipeline/train.py" in words and b"python" in words[0]:
                found += [int(entry.name)] * (config_path.encode() in words)
    return sorted(found)


def test_a_failure_that_repeats_at_one_step_ends_the_requeueing(cluster, written, tmp_path):
    config, path = written(STEPS)
    config.output.mkdir()
    checkpoints_folder(config).write_text("a file where a folder should be")
    job = submit(
        cluster, "pretrain.sh", tmp_path / "log", "--nodes=1", arguments=(path,), FAILURE_LIMIT="2"
    )
    fields = job.wait()
    assert fields["JobState"] == "FAILED", job.text
    assert fields["Restarts"] == "1"
    assert "failed 2 times at the checkpoint of step 0" in job.text


def test_a_mistake_of_one_rank_is_told_once_and_not_requeued(cluster, written, tmp_path):
    config, path = written(STEPS)
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


def test_plain_srun_trains_to_the_same_bits(cluster, written, undisturbed):
    config, path = written(STEPS)
    cluster.wait_idle()
    done = subprocess.run(
        ["srun", "--nodes=2", "--ntasks=2", sys.executable, "pipeline/train.py", path],
        cwd=ROOT,
        env={**cluster.environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert_same_bits(final_state(undisturbed), final_state(config))


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
def test_mistakes_end_the_job_at_once_with_one_message(
    cluster, written, tmp_path, options, override, variables, message
):
    _, path = written(STEPS)
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


def test_the_plan_knows_the_memory_that_the_driver_shows(cluster, written, tmp_path):
    _, path = written(STEPS)
    driver = tmp_path / "bin" / "nvidia-smi"
    driver.parent.mkdir()
    driver.write_text("#!/bin/sh\ncase $1 in *memory*) echo 81559; echo 100;; *) echo 0;; esac\n")
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


def test_without_an_allocation_it_says_how_to_submit():
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
