"""The loop of the process beside training that sends the run's event log to MLflow.

It reads what the run recorded of itself, not the config file, which may have changed meanwhile.
"""

import contextlib
import logging
import os
import select
import sys
import time

from configs.load import UserError
from pipeline.launch.signals import ignore_stop_signals
from pipeline.tracking.checkpoint_record import CheckpointRecord
from pipeline.tracking.event_log import LOG_NAME, EventLog, read_events
from pipeline.tracking.sender import AnotherSender, Sender
from pipeline.tracking.tracked_run import TrackedRun

POLL_S = 0.5
MAX_RETRY_INTERVAL_S = 60.0
NICENESS = 10
"""Training has priority on the processors, above all while both processes start."""

logger = logging.getLogger(__name__)


def follow(tracked: TrackedRun, alive_fd: int | None = None) -> None:
    """Sends events as they are recorded until standard input ends; retries if MLflow is down.

    A byte is written to the pipe `alive_fd` after each request and each wait.
    """
    ignore_stop_signals()
    os.nice(NICENESS)
    alive = _Alive(alive_fd)
    checkpoints = CheckpointRecord(tracked.folder)
    sender = Sender(tracked, alive.signal)
    interval_s = POLL_S
    stop_requested = False
    while True:
        alive.signal()
        checkpoints.update()
        if stop_requested:
            record_failure(tracked)
        try:
            sender.send_pending()
            interval_s = POLL_S
            if stop_requested:
                sender.close()
                return
        except AnotherSender:  # a sync, or the sender process of the previous try: it ends soon
            interval_s = POLL_S
        except Exception as error:
            if stop_requested or interval_s == POLL_S:
                _log_not_sent(tracked, error)
            if stop_requested:
                return
            interval_s = min(MAX_RETRY_INTERVAL_S, interval_s * 2)
        stop_requested = _wait_for_stop(interval_s, stop_requested)


def record_failure(tracked: TrackedRun) -> None:
    """Records that the run failed, if training ended without recording its end."""
    last = ""
    for event, _ in read_events(tracked.folder / LOG_NAME):
        if event["kind"] != "metrics":
            last = event["kind"]
    if last != "end":
        content = {"tags": {"state": "failed"}, "status": "FAILED"}
        EventLog(tracked.folder).append("end", content)


class _Alive:
    """Signals through a pipe that this process is not stuck."""

    def __init__(self, file: int | None) -> None:
        self._file = file
        if file is not None:
            os.set_blocking(file, False)

    def signal(self) -> None:
        """Writes a byte, unless nobody reads."""
        if self._file is not None:
            with contextlib.suppress(BlockingIOError, BrokenPipeError):
                os.write(self._file, b".")


def _wait_for_stop(timeout_s: float, stop_requested: bool) -> bool:
    """Waits `timeout_s` seconds; True as soon as standard input has ended: training is over."""
    if stop_requested:
        time.sleep(timeout_s)
        return True
    readable, _, _ = select.select([sys.stdin], [], [], timeout_s)
    return bool(readable)


def _log_not_sent(tracked: TrackedRun, error: Exception) -> None:
    what = (
        str(error)
        if isinstance(error, UserError)
        else f"{tracked.server} cannot be reached ({type(error).__name__}: {error})"
    )
    logger.warning(
        "tracking: %s; training continues, all events are kept in %s and sent later",
        *(what, tracked.folder / LOG_NAME),
    )
