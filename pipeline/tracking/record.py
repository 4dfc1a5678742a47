"""What the training loop calls: events go to the run's event log, and from there to MLflow."""

import os
import subprocess
import time
from collections.abc import Mapping
from typing import Any, Protocol

from pipeline.run.config import RunConfig
from pipeline.tracking import system_metrics
from pipeline.tracking.event_log import EventLog
from pipeline.tracking.in_order import InOrder
from pipeline.tracking.kept_files import keep_reports
from pipeline.tracking.label_tables import TABLES_KIND
from pipeline.tracking.sender_process import SenderProcess, report_unsent
from pipeline.tracking.tracked_run import tracked_run

END_TIMEOUT_S = 60.0
"""How long the end of a run waits for the tracking server, in seconds."""

STATUS_OF_STATE = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
"""MLflow's word for the state of a run that ended."""


class Record(Protocol):
    """The record of a run, as every rank sees it."""

    def start(self, step: int, content: Mapping[str, Any]) -> None:
        """A start of training that resumes from `step` (0: a new run).

        `content`: "params", "tags", "datasets", "files" to keep with the run, and "status".
        """

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """The metrics of one optimizer step, written after the call; at most one call per step."""

    def wait(self) -> None:
        """Returns when all metrics are written: call it before a checkpoint is saved, which a
        resume continues after without repeating their steps."""

    def rollback(self, reason: str, start_row: int, end_row: int) -> None:
        """Training goes back to its newest checkpoint, and skips rows: `start_row` to before
        `end_row`."""

    def tables(self, step: int, tables: Mapping[str, Any]) -> None:
        """What the evaluation after a step found for the labels of each task."""

    def end(self, state: str, tags: Mapping[str, str] | None = None) -> None:
        """The run is "finished", "stopped" or "failed"; the last call. `tags`: more about it."""


class NodeRecord:
    """The record of ranks other than 0: the first rank of a node samples the node's metrics."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._sampler: subprocess.Popen[bytes] | None = None

    def start(self, step: int, content: Mapping[str, Any]) -> None:
        """Starts to sample the node."""
        if self._config.tracking.enabled and os.environ.get("LOCAL_RANK") == "0":
            self._sampler = system_metrics.start_sampler(self._config.output)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Does nothing: rank 0 records the metrics of all ranks."""

    def wait(self) -> None:
        """Does nothing: rank 0 writes the metrics of all ranks."""

    def rollback(self, reason: str, start_row: int, end_row: int) -> None:
        """Does nothing: rank 0 records it."""

    def tables(self, step: int, tables: Mapping[str, Any]) -> None:
        """Does nothing: rank 0 records them."""

    def end(self, state: str, tags: Mapping[str, str] | None = None) -> None:
        """Stops sampling."""
        if self._sampler is not None:
            system_metrics.stop_sampler(self._sampler)


class RunRecord(NodeRecord):
    """The record of rank 0: writes the event log and keeps the process that sends it.

    Metrics are written in a thread: a file system that is slow to answer does not delay steps.
    """

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self._log = EventLog(config.output)
        self._metrics = InOrder("event-log")
        self._sender: SenderProcess | None = None

    def start(self, step: int, content: Mapping[str, Any]) -> None:
        """Discards the metrics of later steps, then starts to send to MLflow."""
        self.wait()
        self._stop_sender()  # it reads the file that is about to be rewritten
        removed_to = self._log.discard_after(step)
        removed = {} if removed_to is None else {"removed_to": removed_to}
        files = keep_reports(self._config.output, content.get("files", []))
        self._log.append("start", {**content, "files": files, "resumed_from": step, **removed})
        if self._config.tracking.enabled:
            self._sender = SenderProcess(self._config.output)
        super().start(step, content)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Has the metrics of one optimizer step appended to the event log."""
        self._metrics.call(self._log.metrics, step, dict(values), time.time())
        if self._sender is not None:
            self._sender.watch()

    def wait(self) -> None:
        """Returns when all metrics are in the event log."""
        self._metrics.wait()

    def rollback(self, reason: str, start_row: int, end_row: int) -> None:
        """Records why the next start goes back, and which rows it skips."""
        self.wait()
        content = {"reason": reason, "start_row": start_row, "end_row": end_row}
        self._log.append("rollback", content)

    def tables(self, step: int, tables: Mapping[str, Any]) -> None:
        """Appends the tables of an evaluation to the event log."""
        self.wait()
        if tables:
            self._log.append(TABLES_KIND, {"step": step, "tables": dict(tables)})

    def end(self, state: str, tags: Mapping[str, str] | None = None) -> None:
        """Records the state and waits until all is sent, at most END_TIMEOUT_S seconds."""
        super().end(state)
        self.wait()
        status = STATUS_OF_STATE[state]
        self._log.append("end", {"tags": {"state": state, **(tags or {})}, "status": status})
        self._log.report_lost()
        is_sent = self._sender is not None
        self._stop_sender()
        if is_sent:
            report_unsent(tracked_run(self._config))

    def _stop_sender(self) -> None:
        if self._sender is not None:
            self._sender.stop(END_TIMEOUT_S)
            self._sender = None


def open_record(config: RunConfig, rank: int) -> Record:
    """The record for this rank."""
    return RunRecord(config) if rank == 0 else NodeRecord(config)
