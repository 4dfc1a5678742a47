"""`slurm/pretrain.sh`, submitted unmodified to a real Slurm: fault tolerance and elastic resume."""

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from pipeline.checkpoint.manifest import find_checkpoint, newest_step
from pipeline.run.config import TrainConfig
from pipeline.run.run_folder import checkpoints_folder, is_done
from pipeline.tracking.sent import run_id_of
from tests.gloo import run_ranks
from tests.pipeline.training_run import (
    assert_same_bits,
    final_state,
    make_config,
    metrics,
    pretrain,
)
from tests.slurm.cluster import Cluster
from tests.slurm.conftest import ROOT, Job, WriteRun, last_step, submit

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

STEPS = 240
NUM_PREEMPTIONS = int(os.environ.get("NUM_PREEMPTIONS", "2"))


@pytest.fixture(scope="module")
def uninterrupted(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """The same run on two forked ranks, without Slurm and without interruption."""
    config = make_config(
        rows,
        tmp_path_factory.mktemp("uninterrupted") / "run",
        total_rows=16 * STEPS,
        evaluation={"every_steps": STEPS, "rows_per_source": 4},
    )
    run_ranks(pretrain, 2, config)
    return config


def has_reached(config: TrainConfig, step: int) -> bool:
    """Whether the run has finished optimizer step `step`."""
    return last_step(config) >= step


def was_requeued(job: Job, count: int) -> bool:
    """Whether the job has requeued itself `count` times."""
    return job.text.count("requeueing job") == count


def history(config: TrainConfig) -> list[tuple[int, float]]:
    """(step, loss) of the only MLflow run."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=config.tracking.uri)
    experiment = client.get_experiment_by_name(config.tracking.experiment)
    runs = client.search_runs([experiment.experiment_id])
    assert [run.info.run_id for run in runs] == [run_id_of(config.output)]
    values = client.get_metric_history(runs[0].info.run_id, "loss")
    return [(metric.step, metric.value) for metric in values]


def tags(config: TrainConfig) -> dict[str, str]:
    from mlflow import MlflowClient

    found = MlflowClient(tracking_uri=config.tracking.uri).get_run(run_id_of(config.output))
    return dict(found.data.tags)


def test_two_nodes_train_to_the_same_bits_as_two_local_ranks(
    cluster: Cluster, write_run: WriteRun, uninterrupted: TrainConfig, tmp_path: Path
) -> None:
    config, path = write_run(STEPS)
    job = submit(cluster, "pretrain.sh", tmp_path / "log", "--nodes=2", arguments=(path,))
    assert job.wait()["JobState"] == "COMPLETED", job.text
    assert is_done(config)
    assert_same_bits(final_state(uninterrupted), final_state(config))
    assert "node node1: ok" in job.text
    assert "node node2: ok" in job.text
    assert "torch 2" in job.text
    assert history(config) == list(enumerate(metrics(uninterrupted, "loss"), start=1))
    assert tags(config)["state"] == "finished"
    assert tags(config)["slurm.job_id"] == job.job_id


def test_preempted_and_requeued_it_ends_with_the_same_bits(
    cluster: Cluster, write_run: WriteRun, uninterrupted: TrainConfig, tmp_path: Path
) -> None:
    config, path = write_run(STEPS, checkpoint={"every_steps": 1000})
    job = submit(cluster, "pretrain.sh", tmp_path / "log", "--nodes=2", arguments=(path,))
    for number in range(NUM_PREEMPTIONS):
        target = newest_step(checkpoints_folder(config)) + 10
        job.wait_until(partial(has_reached, config, target), f"step {target}")
        cluster.output("scancel", "--batch", "--signal=USR1", job.job_id)
        job.wait_until(partial(was_requeued, job, number + 1), "the requeue")
    fields = job.wait()
    assert fields["JobState"] == "COMPLETED", job.text
    assert fields["Restarts"] == str(NUM_PREEMPTIONS)
    assert_same_bits(final_state(uninterrupted), final_state(config))
    assert history(config) == list(enumerate(metrics(uninterrupted, "loss"), start=1))


def test_at_the_time_limit_it_saves_and_resumes_in_the_next_try(
    cluster: Cluster, write_run: WriteRun, tmp_path: Path
) -> None:
    config, path = write_run(20_000, evaluation={"every_steps": 20_000, "rows_per_source": 4})
    # Slurm may send the signal a minute early; a busy machine takes half a minute to start.
    limits = ("--nodes=1", "--time=2", "--signal=B:USR1@5")
    job = submit(cluster, "pretrain.sh", tmp_path / "log", *limits, arguments=(path,))
    job.wait_until(lambda: "requeueing job" in job.text, "the time limit")
    assert "SIGUSR1 (time limit or preemption): stopping after this step" in job.text
    assert newest_step(checkpoints_folder(config)) == last_step(config) > 0
    job.wait_until(lambda: "resumes from step" in job.text, "the next try")
    cluster.output("scancel", job.job_id)
    assert job.wait()["JobState"] == "CANCELLED"


def test_cancelled_it_saves_first_and_resumes_on_a_different_number_of_nodes(
    cluster: Cluster, write_run: WriteRun, uninterrupted: TrainConfig, tmp_path: Path
) -> None:
    config, path = write_run(STEPS, checkpoint={"every_steps": 1000})
    job = submit(cluster, "pretrain.sh", tmp_path / "log", "--nodes=2", arguments=(path,))
    job.wait_until(lambda: last_step(config) >= 10, "step 10")
    cluster.output("scancel", job.job_id)
    assert job.wait()["JobState"] == "CANCELLED"
    assert newest_step(checkpoints_folder(config)) >= 10
    assert not is_done(config)
    checkpoint, problems = find_checkpoint(checkpoints_folder(config))
    assert checkpoint is not None
    assert not problems
    fewer = submit(cluster, "pretrain.sh", tmp_path / "log2", "--nodes=1", arguments=(path,))
    assert fewer.wait()["JobState"] == "COMPLETED", fewer.text
    assert f"resumes from step {checkpoint.manifest.step}" in fewer.text
    assert metrics(config, "loss") == pytest.approx(metrics(uninterrupted, "loss"), rel=1e-5)
    assert [step for step, _ in history(config)] == list(range(1, STEPS + 1))


def test_the_run_survives_a_lost_node(
    cluster: Cluster, write_run: WriteRun, uninterrupted: TrainConfig, tmp_path: Path
) -> None:
    config, path = write_run(STEPS, checkpoint={"every_steps": 20})
    job = submit(cluster, "pretrain.sh", tmp_path / "log", "--nodes=2", arguments=(path,))
    job.wait_until(
        lambda: newest_step(checkpoints_folder(config)) >= 20, "the checkpoint of step 20"
    )
    cluster.fail("node2")
    try:
        job.wait_until(lambda: cluster.job(job.job_id)["Restarts"] == "1", "the requeue")
    finally:
        cluster.start("node2")
    assert job.wait()["JobState"] == "COMPLETED", job.text
    assert_same_bits(final_state(uninterrupted), final_state(config))
    assert history(config) == list(enumerate(metrics(uninterrupted, "loss"), start=1))


def test_a_hanging_rank_is_ended_and_stacks_are_printed(
    cluster: Cluster, write_run: WriteRun, tmp_path: Path
) -> None:
    config, path = write_run(STEPS, checkpoint={"every_steps": 20})
    job = submit(
        cluster, "pretrain.sh", tmp_path / "log", "--nodes=2", arguments=(path,), SILENCE_S="20"
    )
    job.wait_until(
        lambda: newest_step(checkpoints_folder(config)) >= 20, "the checkpoint of step 20"
    )
    for process in training_processes(path)[:1]:
        os.kill(process, signal.SIGSTOP)
    assert job.wait()["JobState"] == "COMPLETED", job.text
    assert "ending all ranks" in job.text
    # Where the other rank was waiting: in any collective of a step.
    assert 'pipeline/pretraining/loop.py", line' in job.text
    assert "failure 1 of at most 3" in job.text


def training_processes(config_path: str) -> list[int]:
    """Process ids, on this machine, of the ranks that train the config."""
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


def test_repeated_failures_at_one_step_end_the_requeueing(
    cluster: Cluster, write_run: WriteRun, tmp_path: Path
) -> None:
    _, path = write_run(STEPS)
    job = submit(
        *(cluster, "pretrain.sh", tmp_path / "log", "--nodes=1"),
        arguments=(path,),
        FAILURE_LIMIT="2",
        DS_ACCELERATOR="none",  # DeepSpeed fails with an error that the run knows nothing of
    )
    fields = job.wait()
    assert fields["JobState"] == "FAILED", job.text
    assert fields["Restarts"] == "1"
    assert "failed 2 times at the checkpoint of step 0" in job.text


def test_plain_srun_trains_to_the_same_bits(
    cluster: Cluster, write_run: WriteRun, uninterrupted: TrainConfig
) -> None:
    config, path = write_run(STEPS)
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
    assert_same_bits(final_state(uninterrupted), final_state(config))
