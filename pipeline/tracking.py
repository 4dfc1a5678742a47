"""Sends a run's record to MLflow, from a process of its own.

Training starts `follow` and forgets it; the command ``python -m pipeline.tracking sync CONFIG``
sends what is left after a server was down. A record has a key of its own, by which its run is found
again in MLflow, so that all restarts of a run are one MLflow run. Metrics carry the optimizer step:
the sender asks MLflow for the last step it has and sends later ones only, so that nothing is
doubled by a restart of training or by a sender that died between sending and noting it.
"""

import contextlib
import json
import os
import select
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run as a file too: the repository's root comes first, not pipeline/
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from configs import command
from configs.load import UserError
from data_prep.atomic import write_atomic
from pipeline.config import RunConfig
from pipeline.lineage import new_checkpoints, redact
from pipeline.mlflow_run import MlflowRun, is_refusal
from pipeline.run_config import load_run
from pipeline.run_log import LOG_NAME, RunLog, read_events
from pipeline.signals import ignore_stop_signals

STATE_NAME = "tracking.json"
CHECKPOINTS_NAME = "checkpoints.jsonl"
SYSTEM_FOLDER = "system"
POLL_S = 0.5
LONGEST_PAUSE_S = 60.0
HTTP_SETTINGS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
"""Few tries a request: the follower tries again itself, with everything that came meanwhile."""
FOLLOWER_NICENESS = 10
"""The follower takes what training leaves of the processors, above all while both start."""
MAX_PENDING_METRICS = 5000
"""Metric values that are gathered before they are sent."""


def start_follower(arguments: list[str]) -> "subprocess.Popen[bytes]":
    """A process that sends the run's record to MLflow until its standard input is closed.

    `arguments` are the CONFIG.yaml and overrides of the run.
    """
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
    for name, value in HTTP_SETTINGS.items():
        environment.setdefault(name, value)
    command_line = [sys.executable, str(Path(__file__).resolve()), "follow", *arguments]
    return subprocess.Popen(
        command_line, stdin=subprocess.PIPE, env=environment, start_new_session=True
    )


def stop_follower(process: "subprocess.Popen[bytes]", timeout_s: float) -> None:
    """Lets the follower send what is left, for `timeout_s` at most; the rest stays recorded."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


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

    def send_pending(self) -> int:
        """The number of events sent; raises what MLflow raises when it cannot be reached."""
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
    from pipeline.figures import draw_curves

    for path in draw_curves(config.output):
        run.log_file(path, "figures")


def note_checkpoints(config: RunConfig) -> None:
    """Notes checkpoints that appeared since the last call, before they are deleted as too old."""
    path = config.output / CHECKPOINTS_NAME
    noted = [entry["step"] for entry, _ in read_events(path)] if path.exists() else []
    entries = list(new_checkpoints(config, max(noted, default=0)))
    if entries:
        with path.open("ab") as stream:
            stream.write("".join(json.dumps(entry) + "\n" for entry in entries).encode())


def note_failure(config: RunConfig) -> None:
    """Notes that training ended without saying so, if it did."""
    notes = [event for event, _ in read_events(config.output / LOG_NAME)]
    last = [event["kind"] for event in notes if event["kind"] != "metrics"][-1]
    if last != "end":
        content = {"tags": {"state": "failed"}, "status": "FAILED"}
        RunLog(config.output).append("end", content)


def follow(config: RunConfig) -> None:
    """Sends events as they come until standard input ends; tries an absent server again."""
    ignore_stop_signals()
    os.nice(FOLLOWER_NICENESS)
    sender = Sender(config)
    pause_s = POLL_S
    stop_requested = False
    while True:
        note_checkpoints(config)
        if stop_requested:
            note_failure(config)
        try:
            sender.send_pending()
            pause_s = POLL_S
            if stop_requested:
                return
        except Exception as error:
            if stop_requested:
                _say_unsent(config, error)
                return
            if pause_s == POLL_S:
                _say_unsent(config, error)
            pause_s = min(LONGEST_PAUSE_S, pause_s * 2)
        stop_requested = _stdin_closed(pause_s)


def _stdin_closed(timeout_s: float) -> bool:
    """Waits `timeout_s`; True as soon as standard input has ended (the trainer is gone)."""
    readable, _, _ = select.select([sys.stdin], [], [], timeout_s)
    return bool(readable)


def _say_unsent(config: RunConfig, error: Exception) -> None:
    print(
        f"tracking: {redact(tracking_uri(config))} cannot be reached ({type(error).__name__}: "
        f"{redact(str(error))}); training goes on, everything is kept in "
        f"{config.output / LOG_NAME} and sent later",
        file=sys.stderr,
        flush=True,
    )


def _read_state(folder: Path) -> dict[str, Any]:
    path = folder / STATE_NAME
    state: dict[str, Any] = json.loads(path.read_bytes()) if path.exists() else {}
    return state


def main() -> None:
    """``python -m pipeline.tracking sync|follow CONFIG.yaml key.sub=value ...``."""
    parser = command.parser("Send the record of a run to MLflow.", verbs=("sync", "follow"))
    arguments = parser.parse_args()
    config = load_run(arguments.config, arguments.overrides)
    if not (config.output / LOG_NAME).exists():
        raise UserError(f"{config.output / LOG_NAME}: no such record; has the run been started?")
    if arguments.verb == "follow":
        follow(config)
        return
    try:
        num_sent = Sender(config).send_pending()
    except Exception as error:
        raise UserError(
            f"{redact(tracking_uri(config))} cannot be reached ({type(error).__name__}: "
            f"{redact(str(error))}); everything is kept, run sync again when it is up"
        ) from error
    print(f"{num_sent} events sent to {redact(tracking_uri(config))}")


if __name__ == "__main__":
    command.run(main)
