"""The processes that send a run's record to MLflow.

Training starts `follow` and forgets it; the command ``python -m pipeline.tracking sync CONFIG``
sends what is left after a server was down.
"""

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path

from pipeline.launch.signals import ignore_stop_signals
from pipeline.run.config import RunConfig
from pipeline.tracking.event_log import LOG_NAME, RunLog, read_events
from pipeline.tracking.lineage import new_checkpoints, redact
from pipeline.tracking.sender import CHECKPOINTS_NAME, AnotherSender, Sender, tracking_uri

POLL_S = 0.5
LONGEST_PAUSE_S = 60.0
HTTP_SETTINGS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
"""Few tries a request: the follower tries again itself, with everything that came meanwhile."""
FOLLOWER_NICENESS = 10
"""The follower takes what training leaves of the processors, above all while both start."""


def start_follower(arguments: list[str]) -> "subprocess.Popen[bytes]":
    """A process that sends the run's record to MLflow until its standard input is closed.

    `arguments` are the CONFIG.yaml and overrides of the run.
    """
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
    for name, value in HTTP_SETTINGS.items():
        environment.setdefault(name, value)
    command_line = [
        sys.executable,
        str(Path(__file__).resolve().with_name("__main__.py")),
        "follow",
        *arguments,
    ]
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
        except AnotherSender:  # a sync, or the follower of a try before: it ends soon
            pause_s = POLL_S
        except Exception as error:
            if stop_requested:
                _say_unsent(config, error)
                return
            if pause_s == POLL_S:
                _say_unsent(config, error)
            pause_s = min(LONGEST_PAUSE_S, pause_s * 2)
        stop_requested = _wait_for_stop(pause_s, stop_requested)


def _wait_for_stop(timeout_s: float, stop_requested: bool) -> bool:
    """Waits `timeout_s`; True as soon as standard input has ended (the trainer is gone)."""
    if stop_requested:
        time.sleep(timeout_s)
        return True
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
