"""Kills processes of training runs at random moments and compares with an uninterrupted run.

``python -m benchmarks.training_kill [--kills 20] [--kinds rank worker sender] [--seed 0]``

Runs of two ranks with loader workers and an MLflow database, started by torchrun as a user would.
For each kind of process (a rank, a loader worker, the process that sends to MLflow), processes are
killed (SIGKILL) `--kills` times, and the run is started again as often as it ends. Each run ends
with the same checkpoint files and losses as the uninterrupted one, and MLflow holds each step once,
or the program exits with 1.
"""

import os
import random
import signal
import socket
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import yaml

from benchmarks.launched import Launched
from configs import command
from pipeline.checkpoint.manifest import find_checkpoint
from pipeline.run.config import TrainConfig
from pipeline.run.run_folder import checkpoints_folder, is_done
from pipeline.tracking.event_log import LOG_NAME, read_events
from tests.pipeline.training_run import make_config, make_rows

RANKS = 2
STEPS_PER_KILL = 8
"""Optimizer steps of a run for each kill; saves come every three."""
KINDS = ("rank", "worker", "sender")


def main() -> int:
    """Runs, kills, compares."""
    parser = command.plain_parser(__doc__ or "")
    parser.add_argument("--kills", type=int, default=20, help="kills of each kind (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (default: 0)")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="what is killed")
    arguments = parser.parse_args()
    generate = random.Random(arguments.seed)
    same = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_rows(folder / "rows")
        steps = (arguments.kills + 1) * STEPS_PER_KILL
        whole = write_config(folder, "whole", steps)
        start(folder / "whole.yaml").finish()
        print(f"uninterrupted: {steps} steps", flush=True)
        for kind in arguments.kinds:
            killed = runs = 0
            while killed < arguments.kills:
                runs += 1
                config = write_config(folder, f"{kind}-{runs}", steps)
                path = folder / f"{kind}-{runs}.yaml"
                killed += kill_until_done(config, path, kind, arguments.kills - killed, generate)
                start(path).finish()  # a finished run sends what was not sent yet
                problems = list(compare(whole, config))
                same &= not problems
                result = f"DIFFERENT: {problems}" if problems else "the same bits, each step once"
                print(f"{kind}: {killed} kills, run {runs}: {result}", flush=True)
    return 0 if same else 1


def write_config(folder: Path, name: str, steps: int) -> TrainConfig:
    """A run of `steps` optimizer steps, its config written to `folder`/`name`.yaml."""
    config = make_config(
        folder / "rows",
        folder / name / "run",
        workers=2,
        total_rows=16 * steps,
        evaluation={"every_steps": 10, "rows_per_source": 4},
        checkpoint={"every_steps": 3},
        tracking={"enabled": True},
    )
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return config


def start(config_path: Path, ranks: int = RANKS) -> Launched:
    """Starts training with torchrun, output in a log beside the config."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks)]
    return Launched(
        [*launcher, "--master-port", str(port), "pipeline/train.py", str(config_path)],
        config_path.with_suffix(".log"),
    )


def kill_until_done(
    config: TrainConfig, config_path: Path, kind: str, max_kills: int, generate: random.Random
) -> int:
    """The kills of processes of `kind` at random moments until the run is finished."""
    killed = starts = 0
    while not is_done(config):
        starts += 1
        job = start(config_path)
        while job.poll() is None and killed < max_kills:
            wait_for_steps(config, job, generate.randrange(1, STEPS_PER_KILL))
            time.sleep(generate.uniform(0.0, 0.3))
            victims = [process for process in processes(job) if kind_of(process) == kind]
            if not victims:
                time.sleep(0.05)
                continue
            generate.choice(victims).kill()
            killed += 1
            print(f"{kind}: kill {killed} after step {num_steps(config)}", flush=True)
            if kind != "sender":  # its end is not that of the launch
                break
        try:
            job.wait(300)
        except subprocess.TimeoutExpired:
            os.killpg(job.pid, signal.SIGKILL)
            raise RuntimeError(f"the launch hangs after the kill of a {kind}") from None
        if starts > 3 * max_kills + 3:
            raise RuntimeError(f"the run is not finished after {starts} starts")
    return killed


def wait_for_steps(config: TrainConfig, job: Launched, steps: int) -> None:
    """Waits until `job` has recorded `steps` more optimizer steps, or has ended."""
    size = num_events(config)
    while job.poll() is None and num_events(config) < size + steps:
        time.sleep(0.02)


def num_events(config: TrainConfig) -> int:
    """The lines of the event log."""
    path = config.output / LOG_NAME
    return path.read_bytes().count(b"\n") if path.exists() else 0


def num_steps(config: TrainConfig) -> int:
    """The newest optimizer step in the event log."""
    return max(losses(config), default=0)


def processes(job: Launched) -> list[psutil.Process]:
    """The processes that `job` started, directly or not."""
    try:
        return psutil.Process(job.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def kind_of(process: psutil.Process) -> str | None:
    """What a process of a launch is; None where it has ended or is something else."""
    try:
        words = process.cmdline()
        if any(word.endswith("tracking/__main__.py") for word in words):
            return "sender"
        if "pipeline/train.py" not in words or "torch.distributed.run" in words:
            return None
        parent = process.parent()
        # A loader worker is forked from a rank and keeps its command line.
        return "worker" if parent is not None and parent.cmdline() == words else "rank"
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return None


def losses(config: TrainConfig) -> dict[int, float]:
    """The loss of every optimizer step, as recorded last."""
    path = config.output / LOG_NAME
    events = [event for event, _ in read_events(path)] if path.exists() else []
    return {e["step"]: e["values"]["loss"] for e in events if e["kind"] == "metrics"}


def sent_losses(config: TrainConfig) -> list[tuple[int, float]]:
    """(step, loss) of each value that the MLflow database holds."""
    with sqlite3.connect(config.output.parent / "mlflow.db") as database:
        return sorted(database.execute("select step, value from metrics where key = 'loss'"))


def compare(whole: TrainConfig, killed: TrainConfig) -> Iterator[str]:
    """What differs between two finished runs."""
    hashes = []
    for config in (whole, killed):
        checkpoint, _ = find_checkpoint(checkpoints_folder(config))
        assert checkpoint is not None, "a finished run has a checkpoint"
        files = {file.path: file.sha256 for file in checkpoint.manifest.files}
        hashes.append((checkpoint.manifest.step, files))
    if hashes[0] != hashes[1]:
        yield "the last checkpoint"
    expected = losses(whole)
    if losses(killed) != expected:
        yield "losses of the event log"
    if sent_losses(killed) != sorted(expected.items()):
        yield "losses in MLflow"


if __name__ == "__main__":
    command.run(main)
