"""Starts the commands of this project as a user would, and reads what they record.

What depends on the form of configs, commands and records is in this module and in `score`.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.launched import last_lines
from data_prep.dataset.atomic import write_atomic
from pipeline.run.run_folder import DONE_NAME
from pipeline.tracking.event_log import metric_points

ROOT = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True)
class Cost:
    """What a command took."""

    wall_s: float
    cpu_s: float


def run_command(arguments: Sequence[str], log: Path, threads: int = 1) -> None:
    """Runs Python with `arguments` in the repository's root; its output is appended to `log`.

    Raises RuntimeError with the last lines of the log if it fails.
    """
    _check(arguments, log, launch(arguments, log, threads)[0])


def launch(arguments: Sequence[str], log: Path, threads: int) -> tuple[int, Cost]:
    """The exit code of a command, and what it took. It is stopped with this process."""
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with log.open("ab") as stream:
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=ROOT, env=environment, stdout=stream, stderr=stream
        )
    try:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    finally:
        if process.returncode is None:
            process.terminate()
    cost = Cost(time.perf_counter() - started, usage.ru_utime + usage.ru_stime)
    return process.returncode, cost


def _check(arguments: Sequence[str], log: Path, code: int) -> None:
    if code:
        raise RuntimeError(f"{' '.join(arguments)} ended with {code}:\n{last_lines(log)}")


def train(tree: Mapping[str, Any], folder: Path, ranks: int = 1, threads: int = 1) -> Cost:
    """Pretrains or fine-tunes the config `tree` in `folder`/run; resumes what was interrupted.

    The cost is that of all launches that ended, interrupted ones included.
    """
    script = "finetune" if "tasks" in tree else "train"
    config, log = write_config(tree, folder), folder / "log.txt"
    arguments = [f"pipeline/{script}.py", str(config)]
    if ranks > 1:  # torchrun, since it forwards a stop signal to the ranks
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        arguments = [*launcher, *arguments]
    code, cost = launch(arguments, log, threads)
    total = _add_cost(folder / "cost.json", cost)
    _check(arguments, log, code)
    if not (folder / "run" / DONE_NAME).exists():
        raise RuntimeError(f"{folder}: the run was stopped; the same command resumes it")
    return total


def _add_cost(path: Path, cost: Cost) -> Cost:
    before = Cost(**json.loads(path.read_text())) if path.exists() else Cost(0.0, 0.0)
    total = Cost(before.wall_s + cost.wall_s, before.cpu_s + cost.cpu_s)
    write_atomic(path, json.dumps(asdict(total)) + "\n")
    return total


def write_config(tree: Mapping[str, Any], folder: Path) -> Path:
    """The file of a config whose run is in `folder`/run."""
    folder.mkdir(parents=True, exist_ok=True)
    complete = {"name": folder.name, **tree, "output": str(folder / "run")}
    complete |= {"precision": "fp32", "tracking": {"enabled": False}}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(complete, sort_keys=False))
    return path


def score(
    folder: Path, *, best: bool = False, changes: Sequence[str] = (), mask_rate: float | None = None
) -> dict[str, float]:
    """The scores of the run in `folder`/run, of its last or best checkpoint, by metric.

    `changes` of the config say on what. With `mask_rate`: the held-out loss with that share of
    masks, whatever the objective of the run.
    """
    result = folder / "scores.json"
    arguments = ["-m", "benchmarks.learning_studies.score", str(folder / "config.yaml")]
    arguments += [*changes, "--result", str(result)]
    arguments += ["--best"] if best else []
    arguments += [] if mask_rate is None else ["--mask-rate", str(mask_rate)]
    run_command(arguments, folder / "log.txt")
    scores: dict[str, float] = json.loads(result.read_text())
    return scores


def curves(folder: Path, *metrics: str) -> dict[str, list[tuple[int, float]]]:
    """(optimizer step, value) of each of `metrics` in the record of the run in `folder`/run."""
    return metric_points(folder / "run", *metrics)


def curve(folder: Path, metric: str) -> list[tuple[int, float]]:
    """`curves` of one metric."""
    return curves(folder, metric)[metric]
