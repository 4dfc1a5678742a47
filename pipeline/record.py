"""What a run tells the world: metrics to its record and MLflow, progress to the terminal."""

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from pipeline import tracking
from pipeline.config import TrainConfig
from pipeline.plan import RunPlan
from pipeline.run_log import RunLog
from pipeline.versions import versions

LAST_WORDS_TIMEOUT_S = 60.0
"""How long the end of a run waits for the tracking server; the rest is sent by `sync`."""


class Record(Protocol):
    """What training calls; ranks other than 0 have the silent one."""

    def say(self, line: str) -> None:
        """Shows a line on the terminal."""

    def begin(self, step: int, notes: Mapping[str, Any]) -> None:
        """A start or restart that goes on behind `step`; `notes` become parameters."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """The metrics of one optimizer step; at most one call a step."""

    def end(self, state: str) -> None:
        """The run is "finished" or "stopped"; nothing is recorded after that."""


class SilentRecord:
    """For the ranks that do not speak."""

    def say(self, line: str) -> None:
        """Nothing."""

    def begin(self, step: int, notes: Mapping[str, Any]) -> None:
        """Nothing."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Nothing."""

    def end(self, state: str) -> None:
        """Nothing."""


class RunRecord:
    """The record of rank 0: the run's folder first, and MLflow from there."""

    def __init__(self, config: TrainConfig, follow_arguments: list[str]) -> None:
        self._log = RunLog(config.output)
        self._follower: subprocess.Popen[bytes] | None = None
        self._enabled = config.tracking.enabled
        self._follow_arguments = follow_arguments

    def say(self, line: str) -> None:
        """Shows a line on the terminal."""
        print(line, flush=True)

    def begin(self, step: int, notes: Mapping[str, Any]) -> None:
        """Drops what later steps recorded, then starts sending to MLflow."""
        self._log.forget_after(step)
        self._log.append("begin", {"params": dict(notes), "tags": {"state": "running"}})
        if self._enabled:
            self._follower = tracking.start_follower(self._follow_arguments)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Appends the metrics of one step."""
        self._log.metrics(step, values)

    def end(self, state: str) -> None:
        """Notes the state and gives the sender some time to finish."""
        status = {"finished": "FINISHED", "stopped": "KILLED"}[state]
        self._log.append("end", {"tags": {"state": state}, "status": status})
        if self._follower is not None:
            tracking.stop_follower(self._follower, LAST_WORDS_TIMEOUT_S)


def open_record(config: TrainConfig, rank: int, follow_arguments: list[str]) -> Record:
    """The record of this rank."""
    return RunRecord(config, follow_arguments) if rank == 0 else SilentRecord()


def describe_run(plan: RunPlan) -> dict[str, Any]:
    """Flat parameters for MLflow: the config, how it is laid out, what it runs on, the code."""
    return {
        **_flatten(plan.config.model_dump(mode="json")),
        "grid.tp_size": plan.tp_size,
        "grid.dp_size": plan.dp_size,
        "data.fingerprint": plan.data_fingerprint,
        "data.tokenizer_sha256": plan.tokenizer_sha256,
        "git.commit": _git_commit(),
        **{f"version.{name}": version for name, version in versions().items()},
    }


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _git_commit() -> str:
    """The commit of this code, with "-dirty" where files differ from it."""
    root = Path(sys.path[0])
    if not (root / ".git").exists() or shutil.which("git") is None:
        return "unknown"
    command = [
        "git",
        "-C",
        str(root),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=40",
        "--exclude=*",
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
