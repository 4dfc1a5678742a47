"""Sends a run's event log to MLflow, continuing where the last sender stopped.

The run's folder has an id, by which its run is found in MLflow, so that all restarts of a run are
one MLflow run, and a copy of the folder is a different one. Metrics carry the optimizer step: the
sender asks MLflow for the last step that it has and sends later ones only. So no step is sent
twice, neither after a restart of training nor after a sender died between sending and writing its
state. Only one process at a time sends the events of a run (a lock in the run's folder).
"""

import fcntl
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from pipeline.run.folder_identity import FolderIdentity, identify, separate
from pipeline.tracking.checkpoint_record import CHECKPOINTS_NAME, PRUNED_KEY, is_entry
from pipeline.tracking.event_log import LOG_NAME, is_event, read_events
from pipeline.tracking.json_lines import read_objects
from pipeline.tracking.kept_files import open_kept
from pipeline.tracking.mlflow_run import MlflowRun, checkpoint_name, is_rejection
from pipeline.tracking.parent_run import tag_parent, tags_of_copy
from pipeline.tracking.sent import Position, ServerState, position_at, read_sent, write_sent
from pipeline.tracking.system_summary import (
    MAX_NODES_APART,
    WINDOW_MS,
    MetricValue,
    num_nodes,
    read_complete,
    summarise,
)
from pipeline.tracking.tracked_run import TrackedRun

LOCK_NAME = "tracking.lock"
OWNER_TAG = "folder_owner"
SYSTEM_FOLDER = "system"
PLOTS_FOLDER = "plots"
MAX_PENDING_METRICS = 5000
"""Metric values that are collected before they are sent."""
STATE_INTERVAL_S = 5.0
"""How often it is recorded how many metrics were sent."""

logger = logging.getLogger(__name__)


class AnotherSender(Exception):
    """Another process is sending the events of the same run."""


class Sender:
    """Sends the events of one run, continuing where the last sender stopped.

    After a failure, metrics are sent again from the last step that MLflow has. All other events are
    counted; the state file holds how many were sent. `alive` is called after each request.
    """

    def __init__(self, tracked: TrackedRun, alive: Callable[[], None] = lambda: None) -> None:
        self._tracked = tracked
        self._folder = tracked.folder
        self._log = tracked.folder / LOG_NAME
        self._alive = alive
        self._position = Position()
        self._run: MlflowRun | None = None
        self._last_step = -1
        self._state = ServerState()
        self._state_is_written = True
        self._written_at = 0.0
        self._summary_due = 0.0
        self._lock: IO[bytes] | None = None

    def send_pending(self) -> int:
        """Sends all new events and returns their number.

        Raises AnotherSender while another process sends the events of this run, UserError for a
        database that cannot be used, and what MLflow raises if it cannot be reached.
        """
        self._take_lock()
        run = self._run or self._connect()
        if not self._position.is_in(self._log):  # rewritten by a start, which removed metrics
            self._position = Position()
        num_sent = self._send_events(run)
        self._send_checkpoints(run)
        self._send_system_metrics(run)
        if self._state.plots_due:
            self._send("the plots", _send_plots, run, self._folder)
            self._update(plots_due=False)
        if time.monotonic() - self._written_at > STATE_INTERVAL_S:
            self._write_state()
        return num_sent

    def close(self) -> None:
        """Records what was sent and releases the lock."""
        if self._run is not None:
            self._write_state()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _take_lock(self) -> None:
        """Keeps other processes from sending for as long as this one lives."""
        if self._lock is not None:
            return
        lock = (self._folder / LOCK_NAME).open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise AnotherSender(
                f"{self._folder / LOCK_NAME}: another process is sending the events"
            ) from None
        except OSError as error:
            logger.warning("tracking: %s cannot be locked (%s)", lock.name, error.strerror)
        self._lock = lock

    def _connect(self) -> MlflowRun:
        identity = identify(self._folder)
        run = self._open_run(identity)
        if run.tags.get(OWNER_TAG, identity.owner) != identity.owner:
            logger.warning(
                "tracking: MLflow's run %s belongs to a different folder of which %s is a copy: "
                "this one is a new run with that one as its parent",
                *(run.run_id, self._folder),
            )
            identity = separate(self._folder, identity)
            run = self._open_run(identity)
        if run.is_new:
            run.log_tags(tags_of_copy(run, identity))
        elif OWNER_TAG not in run.tags:
            run.log_tags({OWNER_TAG: identity.owner})
        self._sent = read_sent(self._folder, identity)
        self._state = self._sent.of(self._tracked.server, run.run_id)
        self._position = self._state.position
        self._last_step = run.last_step()
        self._state_is_written = False
        self._write_state()
        self._run = run
        return run

    def _open_run(self, identity: FolderIdentity) -> MlflowRun:
        first = next(read_events(self._log), None)
        return MlflowRun(
            self._tracked.uri,
            self._tracked.experiment,
            identity.id,
            self._tracked.name,
            first[0]["time_ms"] if first else None,
            {OWNER_TAG: identity.owner},
        )

    def _send_events(self, run: MlflowRun) -> int:
        num_sent = 0
        pending: list[MetricValue] = []
        start = end = self._position.offset
        num_notes = self._position.num_notes
        for event, next_end in read_events(self._log, self._position.offset):
            is_metrics = event["kind"] == "metrics"
            if pending and (not is_metrics or len(pending) >= MAX_PENDING_METRICS):
                self._send_metrics(run, pending)
                pending = []
                self._reached(start, end, num_notes)
            if is_metrics and event["step"] > self._last_step:
                num_sent += 1
                self._last_step = event["step"]
                pending += _metric_values(event)
            elif not is_metrics:
                if num_notes >= self._state.num_notes:
                    self._send_note(run, event)
                    num_sent += 1
                num_notes += 1
                self._reached(end, next_end, num_notes)
            start, end = end, next_end
        self._send_metrics(run, pending)
        self._reached(start, end, num_notes)
        return num_sent

    def _reached(self, start: int, offset: int, num_notes: int) -> None:
        """All of the log before byte `offset` is sent; its last line is from byte `start` on."""
        if offset == self._position.offset:
            return
        self._position = position_at(self._log, start, offset, num_notes)
        has_notes = num_notes > self._state.num_notes
        self._update(position=self._position, num_notes=max(num_notes, self._state.num_notes))
        if has_notes:
            self._write_state()

    def _send_metrics(self, run: MlflowRun, values: list[MetricValue]) -> None:
        if not values:
            return
        try:
            self._send(f"{len(values)} metrics", run.log_metrics, values)
        except Exception:
            self._last_step = min(step for *_, step in values) - 1  # they are sent again
            raise

    def _send_note(self, run: MlflowRun, event: Mapping[str, Any]) -> None:
        """Sends an event other than metrics."""
        self._send("parameters", run.log_params, event.get("params", {}))
        self._send("tags", run.log_tags, event.get("tags", {}))
        if "parent" in event:
            self._send("the parent run", tag_parent, run, event["parent"])
        self._send("data sets", run.log_datasets, event.get("datasets", []))
        self._send("the step that training resumed from", self._delete_repeated, run, event)
        for name in event.get("files", []):
            self._send(str(name), _send_kept_file, run, self._folder, str(name))
        if "status" in event:
            self._send("the status", run.set_status, event["status"], event["time_ms"])
        if event["kind"] == "end":
            self._update(plots_due=True)

    def _delete_repeated(self, run: MlflowRun, event: Mapping[str, Any]) -> None:
        """Deletes the metrics of steps that training repeats after it resumed or rolled back."""
        step = event.get("resumed_from")
        if step is not None and step < self._last_step and run.delete_after(step):
            self._last_step = step

    def _send_checkpoints(self, run: MlflowRun) -> None:
        path = self._folder / CHECKPOINTS_NAME
        if not path.exists():
            return
        for entry, end in read_objects(path, self._state.checkpoints_offset, is_entry):
            step = entry["step"]
            if entry.get(PRUNED_KEY):
                self._send(f"that checkpoint {step} is deleted", run.log_pruned, step)
            else:
                here = self._folder / "checkpoints" / checkpoint_name(step)
                place = {"path": str(here.resolve())} if here.exists() else {}
                self._send(f"the checkpoint of step {step}", run.log_checkpoint, entry | place)
            self._update(checkpoints_offset=end)
        self._write_state()

    def _send_system_metrics(self, run: MlflowRun) -> None:
        paths = sorted((self._folder / SYSTEM_FOLDER).glob("*.jsonl"))
        if num_nodes(paths) > MAX_NODES_APART:
            self._send_system_summary(run)
            return
        for path in paths:
            offset = self._state.system.get(path.name, 0)
            if path.stat().st_size <= offset:
                continue
            values: list[MetricValue] = []
            end = offset
            for event, end in read_objects(path, offset, is_event):
                values += _metric_values(event)
                if len(values) >= MAX_PENDING_METRICS:
                    self._send("system metrics", run.log_metrics, values)
                    values = []
                    self._update(system={**self._state.system, path.name: end})
            if values:
                self._send("system metrics", run.log_metrics, values)
            self._update(system={**self._state.system, path.name: end})
            self._write_state()

    def _send_system_summary(self, run: MlflowRun) -> None:
        if time.monotonic() < self._summary_due:  # it opens a file of every node
            return
        self._summary_due = time.monotonic() + WINDOW_MS / 1000
        now_ms = int(time.time() * 1000)
        folder = self._folder / SYSTEM_FOLDER
        for events, offsets in read_complete(folder, self._state.system, now_ms):
            self._send("system metrics", run.log_metrics, summarise(events))
            self._update(system=offsets)
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
                *(what, error, self._folder),
            )
        finally:
            self._alive()

    def _update(self, **changes: Any) -> None:
        self._state = self._state.model_copy(update=changes)
        self._state_is_written = False

    def _write_state(self) -> None:
        if self._state_is_written:
            return
        self._sent = write_sent(self._folder, self._sent, self._tracked.server, self._state)
        self._state_is_written = True
        self._written_at = time.monotonic()


def _metric_values(event: Mapping[str, Any]) -> list[MetricValue]:
    return [(k, v, event["time_ms"], event["step"]) for k, v in event["values"].items()]


def _send_kept_file(run: MlflowRun, folder: Path, name: str) -> None:
    stream = open_kept(folder, name)
    if stream is None:
        return
    with stream, tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / name
        with copy.open("xb") as target:
            shutil.copyfileobj(stream, target)
        run.log_file(copy, "data_report")


def _send_plots(run: MlflowRun, folder: Path) -> None:
    from pipeline.tracking.label_plots import draw_tasks
    from pipeline.tracking.plots import draw_curves

    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        for path in [*draw_curves(folder, place), *draw_tasks(folder, place)]:
            run.log_file(path, PLOTS_FOLDER)
