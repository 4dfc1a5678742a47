"""One cluster for all tests of this folder; without Slurm they are skipped, with the reason."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest
import yaml

from data_prep.run import prepare
from pipeline.run.config import TrainConfig
from pipeline.tracking.event_log import LOG_NAME, read_events
from tests.data_prep.corpora import config_of, write_corpus
from tests.pipeline.training_run import make_config, make_rows
from tests.slurm.cluster import FINAL_STATES, Cluster, why_unavailable

ROOT = Path(__file__).parent.parent.parent
CPU_OPTIONS = ("--gpus-per-node=0", "--ntasks-per-node=1", "--cpus-per-task=1")


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A cluster of two idle nodes."""
    reason = why_unavailable()
    if reason:
        pytest.skip(reason)
    result = Cluster()
    try:
        result.up()
        yield result
    finally:
        result.down()


@dataclass
class Job:
    """A submitted job."""

    cluster: Cluster
    job_id: str
    log: Path

    @property
    def text(self) -> str:
        """Its output so far, over all tries."""
        return self.log.read_text() if self.log.exists() else ""

    def wait(self, timeout_s: float = 300) -> dict[str, str]:
        """Its fields after its end, when it will not be requeued."""
        return self.cluster.wait_job(self.job_id, timeout_s)

    def wait_until(self, condition: Callable[[], bool], what: str, timeout_s: float = 200) -> None:
        """Returns when `condition` is true; fails with the job's output otherwise."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            state = self.cluster.job(self.job_id)["JobState"]
            assert state not in FINAL_STATES, f"{what}: job is {state}\n{self.text}"
            assert time.monotonic() < deadline, f"{what}: not in {timeout_s:.0f} s\n{self.text}"
            time.sleep(0.1)


def submit(
    cluster: Cluster,
    script: str,
    log: Path,
    *options: str,
    arguments: tuple[str, ...] = (),
    **variables: str,
) -> Job:
    """Submits one of the shipped scripts, unmodified, from the repository's root."""
    cluster.wait_idle()
    command = ["sbatch", "--parsable", f"--output={log}", *CPU_OPTIONS, *options]
    environment = {**cluster.environment, "VENV": sys.prefix, **variables}
    environment.pop("OMP_NUM_THREADS", None)
    done = subprocess.run(
        [*command, f"slurm/{script}", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return Job(cluster, done.stdout.strip(), log)


def last_step(config: TrainConfig) -> int:
    """The last optimizer step in the event log of a run, 0 before the first."""
    path = config.output / LOG_NAME
    if not path.exists():
        return 0
    return max((event.get("step", 0) for event, _ in read_events(path)), default=0)


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set."""
    folder = tmp_path_factory.mktemp("rows")
    os.chmod(folder.parent, 0o755)
    make_rows(folder)
    return folder


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a corpus and the rows that one machine made from it."""
    folder = tmp_path_factory.mktemp("made")
    write_corpus(folder / "raw")
    prepare(config_of(folder))
    return folder


class WriteRun(Protocol):
    """Writes the config file of a run; the config and the path of the file."""

    def __call__(self, steps: int, **changes: Any) -> tuple[TrainConfig, str]: ...


@pytest.fixture
def write_run(rows: Path, tmp_path: Path) -> WriteRun:
    """Writes configs of runs on `rows`; `changes` replace top-level keys."""

    def write(steps: int, **changes: Any) -> tuple[TrainConfig, str]:
        settings: dict[str, Any] = {
            "total_rows": 16 * steps,
            "evaluation": {"every_steps": 100, "rows_per_source": 12},
            "tracking": {"enabled": True, "uri": f"sqlite:///{tmp_path / 'mlflow.db'}"},
        }
        config = make_config(rows, tmp_path / "run", **{**settings, **changes})
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
        return config, str(path)

    return write
