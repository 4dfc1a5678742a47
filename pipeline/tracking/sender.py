"""Sends a run's event log to MLflow, continuing where the last sender stopped.

The event log has a key, by which its run is found in MLflow, so that all restarts of a run are one
MLflow run. Metrics carry the optimizer step: the sender asks MLflow for the last step that it has
and sends later ones only. So no step is sent twice, neither after a restart of training nor after a
sender died between sending and writing its state. Only one process at a time sends the events of a
run (a lock in the run's folder).
"""

import fcntl
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from data_prep.dataset.atomic import write_atomic
from pipeline.run.config import RunConfig
from pipeline.tracking.event_log import LOG_NAME, read_events
from pipeline.tracking.mlflow_run import MlflowRun, is_rejection

STATE_NAME = "tracking.json"
LOCK_NAME = "tracking.lock"
CHECKPOINTS_NAME = "checkpoints.jsonl"
SYSTEM_FOLDER = "system"
PLOTS_FOLDER = "plots"
MAX_PENDING_METRICS = 5000
"""Metric values that are collected before they are sent."""

MetricValue = tuple[str, float, int, int]
"""(name, value, Unix time in ms, optimizer step)"""

logger = logging.getLogger(__name__)


class AnotherSender(Exception):
    """Another process is sending the events of the same run."""


def tracking_uri(config: RunConfig) -> str:
    """The tracking URI: the configured one, or a SQLite file beside the run's folder."""
    return config.tracking.uri or f"sqlite:///{config.output.resolve().parent / 'mlflow.db'}"


def run_id_of(folder: Path) -> str | None:
    """MLflow's id of the run in `folder`, None as long as MLflow was never reached."""
    return _read_state(folder).get("run_id")


class Sender:
    """Sends the events of one run, continuing where the last sender stopped.

    After a failure, metrics are sent again from the last step that MLflow has. All other events are
    counted; the state file holds how many were sent.
    """

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._log = config.output / LOG_NAME
        self._offset = 0
        self._num_read = 0
        """Events other than metrics that were read so far."""
        self._run: MlflowRun | None = None
        self._last_step = -1
        self._state: dict[str, Any] = {}
        self._ended = False
        self._lock: IO[bytes] | None = None

    def send_pending(self) -> int:
        """Sends all new events and returns their number.

        Raises AnotherSender while another process sends the events of this run, and what MLflow
        raises if it cannot be reached.
        """
        self._take_lock()
        run = self._run or self._connect()
        num_sent = 0
        pending: list[MetricValue] = []
        end_of_pending = self._offset
        for event, end_offset in read_events(self._log, self._offset):
            if event["kind"] == "metrics":
                if event["step"] > self._last_step:
                    num_sent += 1
                    self._last_step = event["step"]
                    pending += _metric_values(event)
                end_of_pending = end_offset
                if len(pending) < MAX_PENDING_METRICS:
                    continue
            self._send_metrics(run, pending)
            pending = []
            self._offset = end_of_pending
            if event["kind"] != "metrics":
                num_sent += self._send_event(run, event)
                self._offset = end_of_pending = end_offset
        self._send_metrics(run, pending)
        self._offset = end_of_pending
        self._send_checkpoints(run)
        self._send_system_metrics(run)
        if self._ended:
            self._send("the plots", _send_plots, run, self._config)
            self._ended = False
        return num_sent

    def _take_lock(self) -> None:
        """Keeps other processes from sending for as long as this one lives."""
        if self._lock is not None:
            return
        lock = (self._config.output / LOCK_NAME).open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise AnotherSender(
                f"{self._config.output / LOCK_NAME}: another process is sending the events"
            ) from None
        except OSError as error:
            logger.warning("tracking: %s cannot be locked (%s)", lock.name, error.strerror)
        self._lock = lock

    def close(self) -> None:
        """Releases the lock."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _connect(self) -> MlflowRun:
        created, _ = next(read_events(self._log))
        run = MlflowRun(
            tracking_uri(self._config),
            self._config.tracking.experiment,
            created["key"],
            self._config.name,
            created["time_ms"],
        )
        self._last_step = run.last_step()
        self._state = {
            "sent_notes": 0,  # events other than metrics
            "checkpoints": 0,
            "system": {},
            **_read_state(self._config.output),
            "run_id": run.run_id,
        }
        self._write_state()
        self._run = run
        return run

    def _send_metrics(self, run: MlflowRun, values: list[MetricValue]) -> None:
        if not values:
            return
        try:
            self._send(f"{len(values)} metrics", run.log_metrics, values)
        except Exception:
            self._last_step = min(step for *_, step in values) - 1  # they are sent again
            raise

    def _send_event(self, run: MlflowRun, event: Mapping[str, Any]) -> int:
        """Sends an event other than metrics, unless it was sent; the number of events sent."""
        self._num_read += 1
        if self._num_read <= self._state["sent_notes"]:
            return 0
        try:
            self._send("parameters", run.log_params, event.get("params", {}))
            self._send("tags", run.log_tags, event.get("tags", {}))
            self._send("data sets", run.log_datasets, event.get("datasets", []))
            self._send("the step that training resumed from", self._delete_repeated, run, event)
            for path in map(Path, event.get("files", [])):
                if path.exists():
                    self._send(str(path), run.log_file, path, "data_report")
            if "status" in event:
                self._send("the status", run.set_status, event["status"], event["time_ms"])
        except Exception:
            self._num_read -= 1
            raise
        self._ended = event["kind"] == "end"
        self._state["sent_notes"] = self._num_read
        self._write_state()
        return 1

    def _delete_repeated(self, run: MlflowRun, event: Mapping[str, Any]) -> None:
        """Deletes the metrics of steps that training repeats after it resumed or rolled back."""
        step = event.get("resumed_from")
        if step is not None and step < self._last_step and run.delete_after(step):
            self._last_step = step

    def _send_checkpoints(self, run: MlflowRun) -> None:
        path = self._config.output / CHECKPOINTS_NAME
        if not path.exists():
            return
        entries = [entry for entry, _ in read_events(path)]
        for entry in entries[self._state["checkpoints"] :]:
            self._send(f"the checkpoint of step {entry['step']}", run.log_checkpoint, entry)
            self._state["checkpoints"] += 1
            self._write_state()

    def _send_system_metrics(self, run: MlflowRun) -> None:
        offsets = self._state["system"]
        for path in sorted((self._config.output / SYSTEM_FOLDER).glob("*.jsonl")):
            events = list(read_events(path, offsets.get(path.name, 0)))
            if events:
                values = [value for event, _ in events for value in _metric_values(event)]
                self._send("system metrics", run.log_metrics, values)
                offsets[path.name] = events[-1][1]
                self._write_state()

    def _send(self, what: str, function: Callable[..., None], *arguments: Any) -> None:
        """Calls `function`. What MLflow permanently rejects is logged and skipped."""
        try:
            function(*arguments)
        except Exception as error:
            if not is_rejection(error):
                raise
            logger.warning(
                "tracking: MLflow permanently rejected %s (%s); it stays in %s",
                what,
                error,
                self._config.output,
            )

    def _write_state(self) -> None:
        write_atomic(self._config.output / STATE_NAME, json.dumps(self._state))


def _metric_values(event: Mapping[str, Any]) -> list[MetricValue]:
    return [(k, v, event["time_ms"], event["step"]) for k, v in event["values"].items()]


def _send_plots(run: MlflowRun, config: RunConfig) -> None:
    from pipeline.tracking.plots import draw_curves

    for path in draw_curves(config.output, config.output / PLOTS_FOLDER):
        run.log_file(path, PLOTS_FOLDER)


def _read_state(folder: Path) -> dict[str, Any]:
    path = folder / STATE_NAME
    state: dict[str, Any] = json.loads(path.read_bytes()) if path.exists() else {}
    return state
