"""`slurm/data_prep.sh` and `slurm/chain.sh`, submitted unmodified to a real Slurm."""

import json
import os
import re
import signal
import stat
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.data_prep.corpora import hashes_of
from tests.pipeline.finetuning.finetune_run import write_lines
from tests.pipeline.training_run import make_config
from tests.slurm.cluster import Cluster
from tests.slurm.conftest import CPU_OPTIONS, ROOT, Job, submit
from tests.slurm.data_runs import Gate, data_config, records_of, worker_processes

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


def test_two_nodes_with_a_killed_worker_make_the_same_bytes(
    cluster: Cluster, made: Path, tmp_path: Path
) -> None:
    path = data_config(tmp_path, made)
    job = submit(cluster, "data_prep.sh", tmp_path / "log", "--nodes=2", arguments=(path,))
    job.wait_until(lambda: len(worker_processes(job.job_id)) >= 2, "two workers")
    folder = ROOT / f".dask-{job.job_id}"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for name in ("cert.pem", "key.pem", "scheduler.json"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    assert json.loads((folder / "scheduler.json").read_text())["address"].startswith("tls://")
    ingested = tmp_path / "work"
    job.wait_until(lambda: any(ingested.rglob("*.parquet")), "the first part")
    os.kill(worker_processes(job.job_id)[0], signal.SIGKILL)
    assert job.wait()["JobState"] == "COMPLETED", job.text
    assert re.search(r"Dask dashboard: http://[^/]+:\d+/status", job.text)
    assert hashes_of(tmp_path / "rows") == hashes_of(made / "rows")
    assert not list(ROOT.glob(f".dask-{job.job_id}"))
    second = submit(cluster, "data_prep.sh", tmp_path / "log2", "--nodes=1", arguments=(path,))
    assert second.wait()["JobState"] == "COMPLETED", second.text
    assert "nothing to do" in second.text


def test_at_the_time_limit_it_requeues_itself_and_makes_the_same_bytes(
    cluster: Cluster, made: Path, tmp_path: Path
) -> None:
    path = data_config(tmp_path, made, part_mb=0.02)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    gate = Gate(tmp_path, free_parts=3)
    # Slurm may send the signal a minute early; a busy machine takes half a minute to start.
    job = submit(
        cluster,
        "data_prep.sh",
        tmp_path / "log",
        "--time=2",
        "--signal=B:USR1@5",
        arguments=(path, "--restart-from", "ingest"),
        LOCAL_SCRATCH=str(scratch),
        **gate.variables,
    )
    job.wait_until(lambda: "requeueing job" in job.text, "the time limit")
    assert "SIGUSR1 (time limit or preemption): finished parts are kept" in job.text
    assert re.search(r"[1-9]\d* parts are finished; the next try continues", job.text)
    assert not worker_processes(job.job_id)
    kept = records_of(tmp_path / "work")
    assert kept
    gate.open()
    fields = job.wait()
    assert fields["JobState"] == "COMPLETED", job.text
    assert fields["Restarts"] == str(job.text.count("requeueing job"))
    assert hashes_of(tmp_path / "rows") == hashes_of(made / "rows")
    assert kept.items() <= records_of(tmp_path / "work").items()
    assert not list(ROOT.glob(f".d*-{job.job_id}"))
    # Dask's folders were there, and the workers removed them at their end.
    assert (scratch / "dask-scratch-space").is_dir()
    assert not [path for path in scratch.rglob("worker-*") if path.is_dir()]


def test_tries_that_finish_no_part_end_the_requeueing(
    cluster: Cluster, made: Path, tmp_path: Path
) -> None:
    path = data_config(tmp_path, made, part_mb=0.02)
    gate = Gate(tmp_path, free_parts=0)
    job = submit(
        cluster,
        "data_prep.sh",
        tmp_path / "log",
        arguments=(path,),
        FAILURE_LIMIT="2",
        **gate.variables,
    )
    for number in (1, 2):
        connected = partial(has_connected, job, number)
        job.wait_until(connected, f"the workers of try {number}")
        cluster.output("scancel", "--batch", "--signal=USR1", job.job_id)
    fields = job.wait()
    assert (fields["JobState"], fields["ExitCode"]) == ("FAILED", "1:0"), job.text
    assert fields["Restarts"] == "1"
    assert "2 tries in a row reached the time limit and finished no part" in job.text


def has_connected(job: Job, count: int) -> bool:
    """Whether the client of a job has found its workers, in `count` tries."""
    return job.text.count("Dask dashboard") == count


def test_an_error_in_the_data_config_ends_the_job_with_one_message(
    cluster: Cluster, made: Path, tmp_path: Path
) -> None:
    path = data_config(tmp_path, made)
    job = submit(cluster, "data_prep.sh", tmp_path / "log", arguments=(path, "part_mbb=3"))
    fields = job.wait(60)
    assert (fields["JobState"], fields["ExitCode"]) == ("FAILED", "2:0"), job.text
    assert job.text.count("part_mbb: unknown key; did you mean 'part_mb'?") == 1


def chain(
    cluster: Cluster, tmp_path: Path, data: str, config: str, **variables: str
) -> dict[str, str]:
    """Submits `slurm/chain.sh`; the ids of its jobs by name."""
    options = " ".join([*CPU_OPTIONS, f"--output={tmp_path}/%x.log"])
    environment = {
        **cluster.environment,
        "VENV": sys.prefix,
        "DATA_OPTIONS": options,
        "PRETRAIN_OPTIONS": options,
        "EXPORT_OPTIONS": options,
        "FINETUNE_OPTIONS": options,
        **variables,
    }
    command = ["slurm/chain.sh", data, config]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(line.split() for line in done.stdout.splitlines())


def train_config(tmp_path: Path, made: Path) -> str:
    manifest = json.loads((made / "rows" / "manifest.json").read_text())
    row_tokens = manifest["row_tokens"]
    model = {
        "num_layers": 1,
        "hidden_size": 16,
        "num_attention_heads": 2,
        "max_row_tokens": row_tokens,
    }
    batch = {"global_rows": 4, "micro_rows": 4}
    config = make_config(
        tmp_path / "rows",
        tmp_path / "run",
        model=model,
        batch=batch,
        total_rows=12,
        schedule={"type": "linear", "warmup_rows": 4},
        tracking={"enabled": True, "uri": f"sqlite:///{tmp_path / 'mlflow.db'}"},
    )
    path = tmp_path / "train.yaml"
    path.write_text(config.model_dump_json())
    return str(path)


def finetune_config(tmp_path: Path) -> str:
    lines = [{"text": f"the {label} tree", "label": label} for label in ("old", "new")] * 4
    data = str(write_lines(tmp_path / "age.jsonl", lines))
    tree = {
        "name": "age",
        "output": str(tmp_path / "finetuned"),
        "start": {"type": "run", "path": str(tmp_path / "run")},
        "tasks": {
            "age": {
                "type": "classification",
                "labels": ["old", "new"],
                "train": data,
                "dev": data,
                "examples_per_step": 4,
            }
        },
        "steps": 3,
        "micro_rows": 2,
        "tracking": {"uri": f"sqlite:///{tmp_path / 'mlflow.db'}"},
    }
    path = tmp_path / "finetune.json"
    path.write_text(json.dumps(tree))
    return str(path)


def test_the_chain_leads_from_sources_to_a_registered_and_a_fine_tuned_model(
    cluster: Cluster, made: Path, tmp_path: Path
) -> None:
    jobs = chain(
        cluster,
        tmp_path,
        data_config(tmp_path, made),
        train_config(tmp_path, made),
        FINETUNE=finetune_config(tmp_path),
        FINETUNE_NODES="2",
    )
    assert list(jobs) == ["data_prep", "pretrain", "export", "finetune", "export_tasks"]
    for name, job_id in jobs.items():
        fields = cluster.wait_job(job_id, 300)
        assert fields["JobState"] == "COMPLETED", (tmp_path / f"{name}.log").read_text()
    assert (tmp_path / "run" / "hf" / "model.safetensors").exists()
    assert "test version 1 in sqlite" in (tmp_path / "export.log").read_text()
    assert "data parallel 2" in (tmp_path / "finetune.log").read_text()
    assert (tmp_path / "finetuned" / "DONE").exists()
    exported = tmp_path / "finetuned" / "hf" / "age" / "config.json"
    assert json.loads(exported.read_text())["label2id"] == {"old": 0, "new": 1}


def test_the_successors_of_a_failed_job_are_cancelled(
    cluster: Cluster, made: Path, tmp_path: Path
) -> None:
    data = tmp_path / "broken.yaml"
    data.write_text("output: [")
    jobs = chain(cluster, tmp_path, str(data), train_config(tmp_path, made))
    assert cluster.wait_job(jobs["data_prep"], 60)["JobState"] == "FAILED"
    for name in ("pretrain", "export"):
        assert cluster.wait_job(jobs[name], 60)["JobState"] == "CANCELLED"
