"""The one door to MLflow: sends a run's record to a tracking server, from a process of its own.

Training starts `follow` and forgets it; the command ``python -m pipeline.tracking sync CONFIG``
sends what is left after a server was down. A record has a key of its own, by which its run is found
again in MLflow, so that all restarts of a run are one MLflow run. Metrics carry the optimizer step:
the sender asks MLflow for the last step it has and sends later ones only, so that nothing is
doubled by a restart of training or by a sender that died between sending and noting it.
"""

import contextlib
import json
import logging
import os
import select
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run as a file too: the repository's root comes first, not pipeline/
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from configs import command
from configs.load import UserError, load
from data_prep.atomic import write_atomic
from pipeline.config import TrainConfig
from pipeline.run_log import LOG_NAME, read_events
from pipeline.signals import ignore_stop_signals

STATE_NAME = "tracking.json"
POLL_S = 0.5
LONGEST_PAUSE_S = 60.0
MAX_VALUE_CHARACTERS = 500
RUN_KEY_TAG = "run_key"
STEP_METRIC = "loss"
"""The metric that every optimizer step has: its last step in MLflow is where sending goes on."""


def start_follower(arguments: list[str]) -> "subprocess.Popen[bytes]":
    """A process that sends the run's record to MLflow until its standard input is closed.

    `arguments` are the CONFIG.yaml and overrides of the run.
    """
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
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


def tracking_uri(config: TrainConfig) -> str:
    """The tracking URI: the configured one, or the SQLite file beside the run's folder."""
    return config.tracking.uri or f"sqlite:///{config.output.resolve().parent / 'mlflow.db'}"


def run_id_of(folder: Path) -> str | None:
    """MLflow's id of the run in `folder`, None as long as the server was never reached."""
    return _read_state(folder).get("run_id")


class Sender:
    """Sends the events of one run's record, from where the last sender stopped."""

    def __init__(self, config: TrainConfig) -> None:
        self._config = config
        self._log = config.output / LOG_NAME
        self._offset = 0
        self._seen_notes = 0
        self._client: Any = None
        self._run_id = ""
        self._last_step = -1

    def send_pending(self) -> int:
        """The number of events sent; raises what MLflow raises when it cannot be reached."""
        if self._client is None:
            self._connect()
        sent = 0
        for event, behind in list(read_events(self._log, self._offset)):
            if event["kind"] == "metrics":
                sent += self._send_metrics(event)
            else:
                sent += self._send_note(event)
            self._offset = behind
        return sent

    def _connect(self) -> None:
        logging.getLogger("alembic").setLevel(logging.WARNING)
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        from mlflow import MlflowClient

        uri, name = tracking_uri(self._config), self._config.tracking.experiment
        client = MlflowClient(tracking_uri=uri)
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            experiment_id = client.create_experiment(name, _artifact_location(uri))
        else:
            experiment_id = experiment.experiment_id
        key = next(event["key"] for event, _ in read_events(self._log))
        found = client.search_runs([experiment_id], f"tags.{RUN_KEY_TAG} = '{key}'")
        if found:
            self._run_id = found[0].info.run_id
            history = client.get_metric_history(self._run_id, STEP_METRIC)
            self._last_step = max((metric.step for metric in history), default=-1)
        else:
            created = client.create_run(
                experiment_id, run_name=self._config.name, tags={RUN_KEY_TAG: key}
            )
            self._run_id = created.info.run_id
        self._note_state(_read_state(self._config.output).get("sent_notes", 0))
        self._client = client

    def _send_metrics(self, event: Mapping[str, Any]) -> int:
        if event["step"] <= self._last_step:
            return 0
        from mlflow.entities import Metric

        metrics = [
            Metric(name, value, event["time_ms"], event["step"])
            for name, value in event["values"].items()
        ]
        self._client.log_batch(self._run_id, metrics=metrics)
        self._last_step = event["step"]
        return 1

    def _send_note(self, event: Mapping[str, Any]) -> int:
        """Parameters, tags and states; sending one twice does no harm."""
        if self._seen_notes < _read_state(self._config.output).get("sent_notes", 0):
            self._seen_notes += 1
            return 0
        from mlflow.entities import Param, RunTag

        params = [Param(k, _shorten(v)) for k, v in event.get("params", {}).items()]
        tags = [RunTag(k, _shorten(v)) for k, v in event.get("tags", {}).items()]
        for start in range(0, max(len(params), len(tags)), 90):
            part = slice(start, start + 90)
            self._client.log_batch(self._run_id, params=params[part], tags=tags[part])
        if "status" in event:
            self._client.set_terminated(self._run_id, event["status"])
        self._seen_notes += 1
        self._note_state(self._seen_notes)
        return 1

    def _note_state(self, sent_notes: int) -> None:
        state = {"run_id": self._run_id, "sent_notes": sent_notes}
        write_atomic(self._config.output / STATE_NAME, json.dumps(state))


def follow(config: TrainConfig) -> None:
    """Sends events as they come until standard input ends; tries an absent server again."""
    ignore_stop_signals()
    sender = Sender(config)
    pause_s = POLL_S
    stop_requested = False
    while True:
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


def _say_unsent(config: TrainConfig, error: Exception) -> None:
    print(
        f"tracking: {tracking_uri(config)} cannot be reached ({type(error).__name__}: {error}); "
        f"training goes on, everything is kept in {config.output / LOG_NAME} and sent later",
        file=sys.stderr,
        flush=True,
    )


def _artifact_location(uri: str) -> str | None:
    """Beside the SQLite file; a server decides for itself."""
    if not uri.startswith("sqlite:///"):
        return None
    return (Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts").as_uri()


def _shorten(value: Any) -> str:
    text = str(value)
    return text if len(text) <= MAX_VALUE_CHARACTERS else text[: MAX_VALUE_CHARACTERS - 3] + "..."


def _read_state(folder: Path) -> dict[str, Any]:
    path = folder / STATE_NAME
    state: dict[str, Any] = json.loads(path.read_bytes()) if path.exists() else {}
    return state


def main() -> None:
    """``python -m pipeline.tracking sync|follow CONFIG.yaml key.sub=value ...``."""
    parser = command.parser("Send the record of a run to MLflow.", verbs=("sync", "follow"))
    arguments = parser.parse_args()
    config = load(arguments.config, TrainConfig, arguments.overrides)
    if not (config.output / LOG_NAME).exists():
        raise UserError(f"{config.output / LOG_NAME}: no such record; has the run been started?")
    if arguments.verb == "follow":
        follow(config)
        return
    print(f"{Sender(config).send_pending()} events sent to {tracking_uri(config)}")


if __name__ == "__main__":
    command.run(main)
