"""Sends a run's record to MLflow from where the last sender stopped.

A record has a key of its own, by which its run is found again in MLflow, so that all restarts of a
run are one MLflow run. Metrics carry the optimizer step: the sender asks MLflow for the last step
it has and sends later ones only, so that nothing is doubled by a restart of training or by a
sender that died between sending and noting it. One process at a time sends a record (a lock in the
run's folder).
"""

import fcntl
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from data_prep.dataset.atomic import write_atomic
from pipeline.run.config import RunConfig
from pipeline.tracking.event_log import LOG_NAME, read_events
from pipeline.tracking.mlflow_run import MlflowRun, is_refusal

STATE_NAME = "tracking.json"
LOCK_NAME = "tracking.lock"
CHECKPOINTS_NAME = "checkpoints.jsonl"
SYSTEM_FOLDER = "system"
MAX_PENDING_METRICS = 5000
"""Metric values that are gathered before they are sent."""


class AnotherSender(Exception):
    """Another process is sending the same record."""


def tracking_uri(config: RunConfig) -> str:
    """The tracking URI: the configured one, or the SQLite file beside the run's folder."""
    return config.tracking.uri or f"sqlite:///{config.output.resolve().parent / 'mlflow.db'}"


def run_id_of(folder: Path) -> str | None:
    """MLflow's id of the run in `folder`, None as long as the server was never reached."""
    return _read_state(folder).get("run_id")


class Sender:
    """Sends the events of one run's record, from where the last sender stopped."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._log = config.output / LOG_NAME
        self._offset = 0
        self._seen_notes = 0
        self._run: MlflowRun | None = None
        self._last_step = -1
        self._state: dict[str, Any] = {}
        self._ended = False
        self._lock: IO[bytes] | None = None

    def send_pending(self) -> int:
        """The number of events sent; raises what MLflow raises when it cannot be reached.

        Raises AnotherSender while another process sends this record.
        """
        self._take_lock()
        run = self._run or self._connect()
        sent = 0
        pending: list[tuple[str, float, int, int]] = []
        behind_pending = self._offset
        for event, behind in read_events(self._log, self._offset):
            if event["kind"] == "metrics":
                if event["step"] > self._last_step:
                    sent += 1
                    self._last_step = event["step"]
                    pending += _metrics(event)
                behind_pending = behind
                if len(pending) < MAX_PENDING_METRICS:
                    continue
            self._send_metrics(run, pending)
            pending = []
            self._offset = behind_pending
            if event["kind"] != "metrics":
                sent += self._send_note(run, event)
                self._offset = behind_pending = behind
        self._send_metrics(run, pending)
        self._offset = behind_pending
        self._send_checkpoints(run)
        self._send_system_metrics(run)
        if self._ended:
            self._refused_or(lambda: _send_figures(run, self._config), "the figures")
            self._ended = False
        return sent

    def _take_lock(self) -> None:
        """Keeps others from sending for as long as this process lives."""
        if self._lock is not None:
            return
        lock = (self._config.output / LOCK_NAME).open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise AnotherSender(
                f"{self._config.output / LOCK_NAME}: another process is sending this record"
            ) from None
        except OSError as error:
            print(f"tracking: no lock on {lock.name} ({error.strerror})", file=sys.stderr)
        self._lock = lock

    def close(self) -> None:
        """Lets others send."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _connect(self) -> MlflowRun:
        created, _ = next(read_events(self._log))
        tracking = self._config.tracking
        uri = tracking_uri(self._config)
        run = MlflowRun(
            uri, tracking.experiment, created["key"], self._config.name, created["time_ms"]
        )
        self._last_step = run.last_step()
        self._state = {
            "sent_notes": 0,
            "checkpoints": 0,
            "system": {},
            **_read_state(self._config.output),
            "run_id": run.run_id,
        }
        self._write_state()
        self._run = run
        return run

    def _send_metrics(self, run: MlflowRun, values: list[tuple[str, float, int, int]]) -> None:
        if not values:
            return
        try:
            self._refused_or(lambda: run.log_metrics(values), f"{len(values)} metrics")
        except Exception:
            self._last_step = min(step for *_, step in values) - 1  # they are sent again
            raise

    def _send_note(self, run: MlflowRun, event: Mapping[str, Any]) -> int:
        """Parameters, tags, data sets, files and states; sending one twice does no harm."""
        self._seen_notes += 1
        if self._seen_notes <= self._state["sent_notes"]:
            return 0
        steps: list[tuple[str, Callable[[], None]]] = [
            ("parameters", lambda: run.log_params(event.get("params", {}))),
            ("tags", lambda: run.log_tags(event.get("tags", {}))),
            ("data sets", lambda: run.log_datasets(event.get("datasets", []))),
            ("repeated steps", lambda: self._forget_after(run, event)),
            *(
                (path, lambda path=path: run.log_file(Path(path), "data_report"))
                for path in event.get("files", [])
                if Path(path).exists()
            ),
        ]
        if "status" in event:
            steps.append(("the status", lambda: run.set_status(event["status"], event["time_ms"])))
        try:
            for what, send in steps:
                self._refused_or(send, what)
        except Exception:
            self._seen_notes -= 1
            raise
        self._ended = event["kind"] == "end"
        self._state["sent_notes"] = self._seen_notes
        self._write_state()
        return 1

    def _forget_after(self, run: MlflowRun, event: Mapping[str, Any]) -> None:
        """Takes back what was sent of steps that a start behind an earlier one takes again."""
        step = event.get("behind_step")
        if step is not None and step < self._last_step and run.forget_after(step):
            self._last_step = step

    def _send_checkpoints(self, run: MlflowRun) -> None:
        path = self._config.output / CHECKPOINTS_NAME
        if not path.exists():
            return
        entries = [entry for entry, _ in read_events(path)]
        for entry in entries[self._state["checkpoints"] :]:
            self._refused_or(
                lambda entry=entry: run.log_checkpoint(entry),  # type: ignore[misc]
                f"the checkpoint of step {entry['step']}",
            )
            self._state["checkpoints"] += 1
            self._write_state()

    def _send_system_metrics(self, run: MlflowRun) -> None:
        offsets = self._state["system"]
        for path in sorted((self._config.output / SYSTEM_FOLDER).glob("*.jsonl")):
            behind = offsets.get(path.name, 0)
            values = []
            for event, end in read_events(path, behind):
                values += _metrics(event)
                behind = end
            if values:
                self._refused_or(
                    lambda values=values: run.log_metrics(values),  # type: ignore[misc]
                    "system metrics",
                )
                offsets[path.name] = behind
                self._write_state()

    def _refused_or(self, send: Callable[[], None], what: str) -> None:
        """Sends; what MLflow will never take is told and passed over, so that the rest arrives."""
        try:
            send()
        except Exception as error:
            if not is_refusal(error):
                raise
            print(
                f"tracking: MLflow refused {what} for good ({error}); it stays in "
                f"{self._config.output}",
                file=sys.stderr,
                flush=True,
            )

    def _write_state(self) -> None:
        write_atomic(self._config.output / STATE_NAME, json.dumps(self._state))


def _metrics(event: Mapping[str, Any]) -> list[tuple[str, float, int, int]]:
    return [(k, v, event["time_ms"], event["step"]) for k, v in event["values"].items()]


def _send_figures(run: MlflowRun, config: RunConfig) -> None:
    from pipeline.tracking.plots import draw_curves

    for path in draw_curves(config.output):
        run.log_file(path, "figures")


def _read_state(folder: Path) -> dict[str, Any]:
    path = folder / STATE_NAME
    state: dict[str, Any] = json.loads(path.read_bytes()) if path.exists() else {}
    return state
