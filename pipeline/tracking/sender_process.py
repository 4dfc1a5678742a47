"""Keeps a process beside training that sends the run's event log to MLflow.

Training starts it and does not wait for it before the end of the run. One that was killed or is
stuck is replaced. What it could not send is reported at the end; the next start sends it, or
``python -m pipeline.tracking sync CONFIG.yaml``.
"""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from pipeline.tracking.tracked_run import TrackedRun
from pipeline.tracking.unsent import count_unsent

PATIENCE_S = 240.0
"""A process without a sign of life for so long is stuck. A request takes up to 40 s."""
FIRST_DELAY_S = 1.0
MAX_DELAY_S = 60.0
"""Between the end of a process that training did not ask for and the next one."""
HTTP_SETTINGS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
"""Few retries of a request: the process itself tries again, with all events that came meanwhile."""
SYNC_TIMEOUT_S = 60.0
MAIN_FILE = Path(__file__).resolve().with_name("__main__.py")

logger = logging.getLogger(__name__)


class SenderProcess:
    """The process that sends the events of the run in `folder` until `stop`."""

    def __init__(self, folder: Path, patience_s: float = PATIENCE_S) -> None:
        self._folder = folder
        self._patience_s = patience_s
        self._delay_s = FIRST_DELAY_S
        self._start_at: float | None = None
        """When to start the next process, on the monotonic clock; None while one runs."""
        self._process: subprocess.Popen[bytes] | None = None
        self._alive_fd = -1
        self._alive_at = 0.0
        self._start()

    @property
    def pid(self) -> int | None:
        """The id of the process, None where none runs."""
        return None if self._process is None else self._process.pid

    def watch(self) -> None:
        """Replaces the process if it has ended or is stuck. Takes microseconds otherwise."""
        now = time.monotonic()
        if self._process is None:
            if self._start_at is not None and now >= self._start_at:
                self._start()
            return
        code = self._process.poll()
        if code is not None:
            self._close()
            self._start_later(f"ended (exit code {code})")
        elif self._has_told():
            self._alive_at = now
        elif now - self._alive_at > self._patience_s:
            self._kill()
            self._start_later(f"did nothing for {self._patience_s:.0f} s and was killed")
            self._patience_s *= 2  # a slow server is not a stuck process

    def stop(self, timeout_s: float) -> int:
        """Lets the process send what is left, for at most `timeout_s` seconds; its exit code."""
        if self._process is None or self._process.poll() is not None:
            self._close()
            self._start()
        process = self._process
        if process is None:
            return -1
        assert process.stdin is not None
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)  # it may have been suspended
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._kill()
        self._close()
        return process.returncode

    def _start(self) -> None:
        read_fd, write_fd = os.pipe()
        os.set_blocking(read_fd, False)
        arguments = ["follow", str(self._folder), "--alive-fd", str(write_fd)]
        try:
            self._process = subprocess.Popen(
                [sys.executable, str(MAIN_FILE), *arguments],
                stdin=subprocess.PIPE,
                env=sender_environment(),
                start_new_session=True,
                pass_fds=(write_fd,),
            )
        except OSError as error:  # no memory or process to spare
            os.close(read_fd)
            self._start_later(f"cannot be started ({error.strerror})")
            return
        finally:
            os.close(write_fd)
        self._alive_fd, self._alive_at, self._start_at = read_fd, time.monotonic(), None

    def _start_later(self, reason: str) -> None:
        logger.warning(
            "tracking: the process that sends the record to MLflow %s; it is started again in "
            "%.0f s, training continues and nothing is lost",
            *(reason, self._delay_s),
        )
        self._start_at = time.monotonic() + self._delay_s
        self._delay_s = min(MAX_DELAY_S, 2 * self._delay_s)

    def _has_told(self) -> bool:
        with contextlib.suppress(BlockingIOError):
            return bool(os.read(self._alive_fd, 1 << 16))
        return False

    def _kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._close()

    def _close(self) -> None:
        if self._alive_fd >= 0:
            os.close(self._alive_fd)
            self._alive_fd = -1
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        self._process = None


def sender_environment() -> dict[str, str]:
    """The environment of a process that sends; it is no rank."""
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
    for name, value in HTTP_SETTINGS.items():
        environment.setdefault(name, value)
    return environment


def report_unsent(tracked: TrackedRun) -> bool:
    """Whether part of the record was not sent, which is logged."""
    unsent = count_unsent(tracked)
    if unsent:
        logger.warning(
            "tracking: %s not sent to %s; kept in %s: the next start of the run sends them, or "
            "`python -m pipeline.tracking sync %s`",
            *(unsent, tracked.server, tracked.folder, tracked.folder),
        )
    return bool(unsent)


def send_rest(tracked: TrackedRun, timeout_s: float = SYNC_TIMEOUT_S) -> None:
    """Sends what is left of a run that does not train, in a process of its own; never raises."""
    if not count_unsent(tracked):
        return
    logger.info("tracking: sending what is left of the record to %s", tracked.server)
    command_line = [sys.executable, str(MAIN_FILE), "sync", str(tracked.folder)]
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(command_line, check=False, timeout=timeout_s, env=sender_environment())
    report_unsent(tracked)
