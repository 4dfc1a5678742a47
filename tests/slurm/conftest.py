"""One cluster for all tests here; without Slurm they are skipped with a message."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from pipeline.run.config import TrainConfig
from pipeline.tracking.event_log import LOG_NAME, read_events
from tests.pipeline.training_run import make_config, make_rows
from tests.slurm.cluster import Cluster, why_not

ROOT = Path(__file__).parent.parent.parent
PLAIN_CPU = ("--gpus-per-node=0", "--ntasks-per-node=1", "--cpus-per-task=1")


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Two idle nodes."""
    reason = why_not()
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
    """A submitted job of one run."""

    cluster: Cluster
    job_id: str
    log: Path

    @property
    def text(self) -> str:
        """What it has printed so far, over all tries."""
        return self.log.read_text() if self.log.exists() else ""

    def wait(self, timeout_s: float = 300) -> dict[str, str]:
        """Its fields when it has ended for good."""
        return self.cluster.wait_job(self.job_id, timeout_s)

    def wait_until(self, condition: Callable[[], bool], what: str, timeout_s: float = 200) -> None:
        """Returns when `condition` holds; fails with the log otherwise."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            state = self.cluster.job(self.job_id)["JobState"]
            assert state in ("PENDING", "RUNNING", "COMPLETING", "REQUEUED", "NODE_FAIL"), (
                f"{what}: job is {state}\n{self.text}"
            )
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
    """Submits a shipped script, unmodified, from the repository's root."""
    cluster.wait_idle()
    command = ["sbatch", "--parsable", f"--output={log}", *PLAIN_CPU, *options]
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
    """The last optimizer step in the record of a run, 0 before the first."""
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


@pytest.fixture
def written(rows: Path, tmp_path: Path) -> Callable[..., tuple[TrainConfig, str]]:
    """Makes a run's config and its file: `written(steps, **changes)`."""

    def write(steps: int, **changes: object) -> tuple[TrainConfig, str]:
        settings = {
            "total_rows": 16 * steps,
            "evaluation": {"every_steps": 100, "rows_per_source": 12},
            "tracking": {"enabled": True, "uri": f"sqlite:///{tmp_path / 'mlflow.db'}"},
        }
        config = make_config(rows, tmp_path / "run", **{**settings, **changes})
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
        return config, str(path)

    return write
