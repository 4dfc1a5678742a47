"""What a run tells the world: metrics to its record and MLflow, progress to the terminal."""

import os
import subprocess
from collections.abc import Mapping
from typing import Any, Protocol

from pipeline.run.config import RunConfig
from pipeline.run.plan import RunPlan
from pipeline.tracking import follower as tracking
from pipeline.tracking import lineage, system_metrics
from pipeline.tracking.event_log import RunLog

LAST_WORDS_TIMEOUT_S = 60.0
"""How long the end of a run waits for the tracking server; the rest is sent by `sync`."""


class Record(Protocol):
    """What training calls; ranks other than 0 have the silent one."""

    def say(self, line: str) -> None:
        """Shows a line on the terminal."""

    def begin(self, step: int, notes: Mapping[str, Any]) -> None:
        """A start or restart that goes on behind `step`; `notes` are `describe_run`'s."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """The metrics of one optimizer step; at most one call a step."""

    def end(self, state: str) -> None:
        """The run is "finished", "stopped" or "failed"; nothing is recorded after that."""


class SilentRecord:
    """For the ranks that do not speak; the first of a node watches that node."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._sampler: subprocess.Popen[bytes] | None = None

    def say(self, line: str) -> None:
        """Nothing."""

    def begin(self, step: int, notes: Mapping[str, Any]) -> None:
        """Starts to watch the node."""
        if self._config.tracking.enabled and os.environ.get("LOCAL_RANK") == "0":
            self._sampler = system_metrics.start_sampler(self._config.output)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Nothing."""

    def end(self, state: str) -> None:
        """Stops watching the node."""
        if self._sampler is not None:
            system_metrics.stop_sampler(self._sampler)


class RunRecord(SilentRecord):
    """The record of rank 0: the run's folder first, and MLflow from there."""

    def __init__(self, config: RunConfig, follow_arguments: list[str]) -> None:
        super().__init__(config)
        self._log = RunLog(config.output)
        self._follower: subprocess.Popen[bytes] | None = None
        self._enabled = config.tracking.enabled
        self._follow_arguments = follow_arguments

    def say(self, line: str) -> None:
        """Shows a line on the terminal."""
        print(line, flush=True)

    def begin(self, step: int, notes: Mapping[str, Any]) -> None:
        """Drops what later steps recorded, then starts sending to MLflow."""
        self._stop_follower()  # it reads the file that is about to be rewritten
        self._log.forget_after(step)
        self._log.append("begin", {**notes, "behind_step": step})
        if self._enabled:
            self._follower = tracking.start_follower(self._follow_arguments)
        super().begin(step, notes)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Appends the metrics of one step."""
        self._log.metrics(step, values)

    def end(self, state: str) -> None:
        """Notes the state and gives the sender some time to finish."""
        super().end(state)
        status = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}[state]
        self._log.append("end", {"tags": {"state": state}, "status": status})
        self._stop_follower()

    def _stop_follower(self) -> None:
        if self._follower is not None:
            tracking.stop_follower(self._follower, LAST_WORDS_TIMEOUT_S)
            self._follower = None


def open_record(config: RunConfig, rank: int, follow_arguments: list[str]) -> Record:
    """The record of this rank."""
    return RunRecord(config, follow_arguments) if rank == 0 else SilentRecord(config)


def describe_run(plan: RunPlan) -> dict[str, Any]:
    """What a start tells MLflow: parameters, tags, data sets, and files to keep with the run."""
    return {
        "params": lineage.describe_run(plan),
        "tags": {"state": "running", **lineage.describe_launch()},
        "datasets": lineage.describe_datasets(plan),
        "files": lineage.data_reports(plan.config),
        "status": "RUNNING",
    }
