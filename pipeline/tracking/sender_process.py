"""The process beside training that sends the run's event log to MLflow.

Training starts it and does not wait for it before the end of the run. What it could not send, the
next start sends, or ``python -m pipeline.tracking sync CONFIG.yaml``.
"""

import contextlib
import json
import logging
import os
import select
import subprocess
import sys
import time
from pathlib import Path

from configs.redact import redact
from pipeline.launch.signals import ignore_stop_signals
from pipeline.run.config import RunConfig
from pipeline.tracking.event_log import LOG_NAME, EventLog, read_events
from pipeline.tracking.lineage import new_checkpoints
from pipeline.tracking.sender import CHECKPOINTS_NAME, AnotherSender, Sender, tracking_uri

POLL_S = 0.5
MAX_RETRY_INTERVAL_S = 60.0
HTTP_SETTINGS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
"""Few retries of a request: `follow` itself tries again, with all events that came meanwhile."""
NICENESS = 10
"""Training has priority on the processors, above all while both processes start."""

logger = logging.getLogger(__name__)


def start_sender_process(arguments: list[str]) -> "subprocess.Popen[bytes]":
    """Starts a process that sends the run's events to MLflow until its standard input is closed.

    `arguments` are the CONFIG.yaml and overrides of the run.
    """
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
    for name, value in HTTP_SETTINGS.items():
        environment.setdefault(name, value)
    main_file = Path(__file__).resolve().with_name("__main__.py")
    return subprocess.Popen(
        [sys.executable, str(main_file), "follow", *arguments],
        stdin=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )


def stop_sender_process(process: "subprocess.Popen[bytes]", timeout_s: float) -> None:
    """Lets the process send what is left, for at most `timeout_s` seconds, then kills it."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def record_checkpoints(config: RunConfig) -> None:
    """Records checkpoints that are new since the last call, before retention deletes them."""
    path = config.output / CHECKPOINTS_NAME
    recorded = [entry["step"] for entry, _ in read_events(path)] if path.exists() else []
    entries = list(new_checkpoints(config, max(recorded, default=0)))
    if entries:
        with path.open("ab") as stream:
            stream.write("".join(json.dumps(redact(entry)) + "\n" for entry in entries).encode())


def record_failure(config: RunConfig) -> None:
    """Records that the run failed, if training ended without recording its end."""
    kinds = [event["kind"] for event, _ in read_events(config.output / LOG_NAME)]
    if [kind for kind in kinds if kind != "metrics"][-1] != "end":
        content = {"tags": {"state": "failed"}, "status": "FAILED"}
        EventLog(config.output).append("end", content)


def follow(config: RunConfig) -> None:
    """Sends events as they are recorded until standard input ends; retries if MLflow is down."""
    ignore_stop_signals()
    os.nice(NICENESS)
    sender = Sender(config)
    interval_s = POLL_S
    stop_requested = False
    while True:
        record_checkpoints(config)
        if stop_requested:
            record_failure(config)
        try:
            sender.send_pending()
            interval_s = POLL_S
            if stop_requested:
                return
        except AnotherSender:  # a sync, or the sender process of the previous try: it ends soon
            interval_s = POLL_S
        except Exception as error:
            if stop_requested or interval_s == POLL_S:
                _log_not_sent(config, error)
            if stop_requested:
                return
            interval_s = min(MAX_RETRY_INTERVAL_S, interval_s * 2)
        stop_requested = _wait_for_stop(interval_s, stop_requested)


def _wait_for_stop(timeout_s: float, stop_requested: bool) -> bool:
    """Waits `timeout_s` seconds; True as soon as standard input has ended: training is over."""
    if stop_requested:
        time.sleep(timeout_s)
        return True
    readable, _, _ = select.select([sys.stdin], [], [], timeout_s)
    return bool(readable)


def _log_not_sent(config: RunConfig, error: Exception) -> None:
    logger.warning(
        "tracking: %s cannot be reached (%s: %s); training continues, all events are kept in %s "
        "and sent later",
        tracking_uri(config),
        type(error).__name__,
        error,
        config.output / LOG_NAME,
    )
