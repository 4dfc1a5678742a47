"""Fault tolerance of a Slurm job: whether to requeue it, and whether its run makes progress.

    python -m pipeline.slurm_job after CONFIG --exit-code N --signal USR1|TERM|none
    python -m pipeline.slurm_job watch CONFIG --silence-s 1800

The exit code of `after` decides what follows the end of srun: 0 the run is finished, 75 requeue,
anything else stop. After a failure the job is requeued, until it has failed ``--limit`` times
without a newer checkpoint. `watch` ends with 76 when a run hangs. Neither calls Slurm: they may run
in a container that has none.
"""

import json
import logging
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from configs import command
from configs.load import UserError
from data_prep.dataset.atomic import write_atomic
from pipeline.checkpoint.manifest import newest_step
from pipeline.finetuning.config import FinetuneConfig
from pipeline.finetuning.run_config import load_run
from pipeline.finetuning.sweep.children import all_children
from pipeline.finetuning.sweep.results import read_results
from pipeline.launch.shared_error import clear_error, has_error
from pipeline.run import run_folder
from pipeline.run.config import RunConfig
from pipeline.tracking.event_log import LOG_NAME, EventLog

FAILURES_NAME = "failures.json"
EXIT_REQUEUE = 75
EXIT_SILENT = 76
EXIT_STOPPED = 143
EXIT_FAILED = 1
SEND_TIMEOUT_S = 60.0
WATCH_POLL_S = 5.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Verdict:
    """What follows the end of srun."""

    state: str
    """The state of the run for MLflow: finished, requeued, killed or failed."""
    exit_code: int
    """EXIT_REQUEUE, or the exit code of the batch script."""
    message: str
    """The reason, for the log of the job."""


def judge(
    config: RunConfig, exit_code: int, signal_name: str, limit: int, is_first_try: bool = False
) -> Verdict:
    """What follows after srun ended with `exit_code` and the script had received `signal_name`.

    Counts failures in the run's folder. A newer checkpoint or a new job (`is_first_try`) resets the
    count.
    """
    if is_finished(config):
        return Verdict("finished", 0, "the run is finished")
    step = progress(config)
    if signal_name == "TERM":
        return Verdict("killed", EXIT_STOPPED, f"cancelled at the checkpoint of step {step}")
    if exit_code == 0 and signal_name == "USR1":
        return Verdict(
            "requeued", EXIT_REQUEUE, f"time limit: will resume from the checkpoint of step {step}"
        )
    if exit_code == command.EXIT_USER_ERROR or has_error(config.output):
        clear_error(config.output)
        return Verdict(
            "failed",
            command.EXIT_USER_ERROR,
            "an error that another try cannot fix: see above",
        )
    failures = count_failure(config.output, step, is_first_try)
    if failures >= limit:
        return Verdict(
            "failed",
            EXIT_FAILED,
            f"failed {failures} times at the checkpoint of step {step} (exit code {exit_code}): "
            "not requeued. Fix the cause and submit the same command; it resumes from there",
        )
    return Verdict(
        "requeued",
        EXIT_REQUEUE,
        f"failure {failures} of at most {limit} at the checkpoint of step {step} (exit code "
        f"{exit_code}): will try again",
    )


def is_finished(config: RunConfig) -> bool:
    """Whether the run is finished, or all children of a sweep have ended."""
    if isinstance(config, FinetuneConfig) and config.sweep is not None:
        return read_results(config).is_finished
    return run_folder.is_done(config)


def progress(config: RunConfig) -> int:
    """The step of the newest checkpoint; in a sweep the sum over the folders of its children."""
    return sum(newest_step(run_folder.checkpoints_folder(run)) for run in _runs(config))


def _runs(config: RunConfig) -> list[RunConfig]:
    """The run, or the children of a sweep."""
    if isinstance(config, FinetuneConfig) and config.sweep is not None:
        return [child.config for child in all_children(config)]
    return [config]


def count_failure(output: Path, step: int, is_first_try: bool) -> int:
    """Counts a failure; how often the run failed since the checkpoint of `step`, its newest."""
    path = output / FAILURES_NAME
    before = json.loads(path.read_bytes()) if path.exists() and not is_first_try else {}
    failures: int = before["failures"] + 1 if before.get("step") == step else 1
    write_atomic(path, json.dumps({"step": step, "failures": failures}) + "\n")
    return failures


def record_state(config: RunConfig, state: str) -> None:
    """Adds `state` to the event log of a run whose training has ended."""
    status = {"finished": "FINISHED", "failed": "FAILED"}.get(state, "KILLED")
    tags = {"state": state, "slurm.job_id": os.environ.get("SLURM_JOB_ID", "")}
    EventLog(config.output).append("end", {"tags": tags, "status": status})


def send_events(arguments: list[str]) -> None:
    """Sends events that were not sent yet to MLflow, for at most SEND_TIMEOUT_S seconds."""
    command_line = [sys.executable, "-m", "pipeline.tracking", "sync", *arguments]
    try:
        subprocess.run(command_line, check=False, timeout=SEND_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        logger.warning(
            "tracking: stopped after %.0f s; all events are kept and sent later", SEND_TIMEOUT_S
        )


def wait_for_silence(config: RunConfig, silence_s: float, start_s: float = 900.0) -> None:
    """Returns when the event log has not grown for `silence_s` seconds.

    The first event of this try may take `start_s` seconds: data and checkpoint are verified first.
    Whether the log changes is observed, on a clock that only counts seconds: its time is set by the
    file server, and both clocks may be set in mid-run.
    """
    paths = [run.output / LOG_NAME for run in (config, *_runs(config))]
    last = [_signature(path) for path in paths]
    deadline = time.monotonic() + max(start_s, silence_s)
    while time.monotonic() <= deadline:
        time.sleep(min(WATCH_POLL_S, silence_s / 4))
        now = [_signature(path) or old for path, old in zip(paths, last, strict=True)]
        if now != last:
            last, deadline = now, time.monotonic() + silence_s


def _signature(path: Path) -> tuple[int, int] | None:
    """Time and size of a file, None where there is none (or the file server does not answer)."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def main() -> int:
    """``python -m pipeline.slurm_job after|watch CONFIG.yaml ...``."""
    parser = command.parser(
        "Decide on requeueing a Slurm job (after), or end a run that hangs (watch).",
        verbs=("after", "watch"),
    )
    parser.add_argument("--exit-code", type=int, default=0, help="the exit code of srun")
    parser.add_argument(
        "--signal",
        choices=("USR1", "TERM", "none"),
        default="none",
        help="what the batch script received",
    )
    parser.add_argument("--limit", type=int, default=3, help="failures without a newer checkpoint")
    parser.add_argument(
        "--silence-s", type=float, default=1800.0, help="longest time without an event, in seconds"
    )
    arguments = parser.parse_args()
    config = load_run(arguments.config, arguments.overrides)
    if arguments.limit < 1:
        raise UserError(f"--limit {arguments.limit}: must be at least 1")
    if arguments.verb == "watch":
        wait_for_silence(config, arguments.silence_s)
        logger.error("%s: no step in %.0f s: ending all ranks", config.output, arguments.silence_s)
        return EXIT_SILENT
    is_first_try = "SLURM_RESTART_COUNT" not in os.environ
    verdict = judge(config, arguments.exit_code, arguments.signal, arguments.limit, is_first_try)
    logger.info("%s: %s", config.output, verdict.message)
    if (config.output / LOG_NAME).exists():
        if verdict.state != "finished":
            record_state(config, verdict.state)
        is_ended_soon = verdict.state == "killed"  # Slurm is about to kill this process
        if config.tracking.enabled and not is_ended_soon:
            send_events([arguments.config, *arguments.overrides])
    return verdict.exit_code


if __name__ == "__main__":
    command.run(main)
