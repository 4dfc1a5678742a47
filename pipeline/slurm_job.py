"""What a Slurm job does about its run: whether to try again, and whether it still moves.

    python -m pipeline.slurm_job after CONFIG --exit-code N --signal USR1|TERM|none
    python -m pipeline.slurm_job watch CONFIG --silence-s 1800 --srun-pid PID

`after` says what follows the end of srun by its exit code: 0 finished, 75 requeue, anything else
stop. A failure is tried again until it has happened ``--limit`` times without a newer checkpoint.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from configs import command
from configs.load import UserError
from data_prep.dataset.atomic import write_atomic
from pipeline.checkpoint.manifest import newest_step
from pipeline.finetuning.run_config import load_run
from pipeline.launch import shared_error as mistakes
from pipeline.run import run_folder
from pipeline.run.config import RunConfig
from pipeline.tracking.event_log import LOG_NAME, RunLog

FAILURES_NAME = "failures.json"
EXIT_REQUEUE = 75
EXIT_STOPPED = 143
EXIT_GIVEN_UP = 1
SEND_TIMEOUT_S = 60.0
WATCH_POLL_S = 5.0
STACKS_S = 20.0
"""Time for the ranks to print their stacks."""


@dataclass(frozen=True)
class Verdict:
    """What follows the end of a try."""

    state: str
    """The run's state for MLflow: finished, requeued, killed or failed."""
    exit_code: int
    """What the batch script does: EXIT_REQUEUE means requeue, anything else is its exit code."""
    sentence: str
    """The same for a person."""


def judge(
    config: RunConfig, exit_code: int, signal_name: str, limit: int, is_first_try: bool = False
) -> Verdict:
    """What follows after srun ended with `exit_code`, the script having got `signal_name`.

    Counts a failure in the run's folder; a newer checkpoint or a new job begins the count anew.
    """
    if run_folder.is_done(config):
        return Verdict("finished", 0, "the run is finished")
    step = newest_step(config)
    if signal_name == "TERM":
        return Verdict(
            "killed", EXIT_STOPPED, f"stopped from outside at the checkpoint of step {step}"
        )
    if exit_code == 0 and signal_name == "USR1":
        return Verdict(
            "requeued", EXIT_REQUEUE, f"the time is up; goes on from the checkpoint of step {step}"
        )
    if exit_code == command.EXIT_USER_ERROR or mistakes.is_noted(config.output):
        mistakes.forget(config.output)
        return Verdict(
            "failed",
            command.EXIT_USER_ERROR,
            "a mistake that trying again cannot mend: see above",
        )
    failures = count_failure(config.output, step, is_first_try)
    if failures >= limit:
        return Verdict(
            "failed",
            EXIT_GIVEN_UP,
            f"failed {failures} times at the checkpoint of step {step} (exit code {exit_code}): "
            "given up. Mend the cause and submit the same command; it goes on from there",
        )
    return Verdict(
        "requeued",
        EXIT_REQUEUE,
        f"failure {failures} of at most {limit} at the checkpoint of step {step} (exit code "
        f"{exit_code}): tries again",
    )


def count_failure(output: Path, step: int, is_first_try: bool) -> int:
    """How often the run has now failed with the checkpoint of `step` as its newest."""
    path = output / FAILURES_NAME
    before = json.loads(path.read_bytes()) if path.exists() and not is_first_try else {}
    failures: int = before["failures"] + 1 if before.get("step") == step else 1
    write_atomic(path, json.dumps({"step": step, "failures": failures}) + "\n")
    return failures


def note_state(config: RunConfig, state: str) -> None:
    """Notes `state` in the record, once training has ended; it is sent with the rest."""
    status = {"finished": "FINISHED", "failed": "FAILED"}.get(state, "KILLED")
    tags = {"state": state, "slurm.job_id": os.environ.get("SLURM_JOB_ID", "")}
    RunLog(config.output).append("end", {"tags": tags, "status": status})


def send_rest(arguments: list[str]) -> None:
    """Sends what is left of the record to MLflow; a server that does not answer is left alone."""
    command_line = [sys.executable, "-m", "pipeline.tracking", "sync", *arguments]
    try:
        subprocess.run(command_line, check=False, timeout=SEND_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        print(f"tracking: gave up after {SEND_TIMEOUT_S:.0f} s; all is kept, and sent later")


def watch(config: RunConfig, silence_s: float, srun_pid: int) -> None:
    """Ends srun when the record of the run has not grown for `silence_s` seconds.

    The ranks get SIGABRT first, at which each prints where its threads stand.
    """
    wait_for_silence(config, silence_s)
    print(f"{config.output}: no step in {silence_s:.0f} s: ending all ranks", flush=True)
    subprocess.run(["scancel", "--signal=ABRT", os.environ["SLURM_JOB_ID"]], check=False)
    time.sleep(STACKS_S)
    with contextlib.suppress(ProcessLookupError):
        os.kill(srun_pid, signal.SIGKILL)


def wait_for_silence(config: RunConfig, silence_s: float, start_s: float = 900.0) -> None:
    """Returns when the record has not grown for `silence_s` seconds.

    The first event of this try may take `start_s` seconds: data and checkpoint are verified before.
    """
    begun = time.time()
    path = config.output / LOG_NAME
    while True:
        last = path.stat().st_mtime if path.exists() else 0.0
        deadline = last + silence_s if last >= begun else begun + max(start_s, silence_s)
        if time.time() > deadline:
            return
        time.sleep(min(WATCH_POLL_S, silence_s / 4))


def main() -> int:
    """``python -m pipeline.slurm_job after|watch CONFIG.yaml ...``."""
    parser = command.parser("Follow a run inside a Slurm job.", verbs=("after", "watch"))
    parser.add_argument("--exit-code", type=int, default=0, help="the exit code of srun")
    parser.add_argument(
        "--signal", choices=("USR1", "TERM", "none"), default="none", help="what the script got"
    )
    parser.add_argument("--limit", type=int, default=3, help="failures at one checkpoint")
    parser.add_argument("--silence-s", type=float, default=1800.0, help="longest silence, seconds")
    parser.add_argument("--srun-pid", type=int, default=0, help="what to end after a silence")
    arguments = parser.parse_args()
    config = load_run(arguments.config, arguments.overrides)
    if arguments.limit < 1:
        raise UserError(f"--limit {arguments.limit}: must be at least 1")
    if arguments.verb == "watch":
        watch(config, arguments.silence_s, arguments.srun_pid)
        return 0
    is_first_try = "SLURM_RESTART_COUNT" not in os.environ
    verdict = judge(config, arguments.exit_code, arguments.signal, arguments.limit, is_first_try)
    print(f"{config.output}: {verdict.sentence}", flush=True)
    if (config.output / LOG_NAME).exists():
        if verdict.state != "finished":
            note_state(config, verdict.state)
        if config.tracking.enabled and verdict.state != "killed":  # then Slurm is about to kill us
            send_rest([arguments.config, *arguments.overrides])
    return verdict.exit_code


if __name__ == "__main__":
    command.run(main)
