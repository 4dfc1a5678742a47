"""Who holds the lock of a folder, and whether that process still exists."""

import getpass
import os
import socket
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict

SLURM_TIMEOUT_S = 20.0
ALIVE_STATES = frozenset(
    ("RUNNING", "COMPLETING", "CONFIGURING", "RESIZING", "SIGNALING", "STAGE_OUT")
)
"""Slurm's states of a job whose processes may run; whether they do, the heartbeat shows."""
PAUSED_STATES = frozenset(("SUSPENDED", "STOPPED"))
"""States of a job whose processes make no heartbeat now, and will run again."""


class Holder(BaseModel):
    """The process that holds a lock, as the lock's file describes it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    folder: str
    """The locked folder, resolved on the host of the process."""
    inode: int = 0
    """Of the lock's file: a copy has a different one."""
    host: str
    boot_id: str
    """Of the running kernel: changes when the host restarts."""
    pid_namespace: str
    """In which `pid` counts: containers on one host have different ones."""
    pid: int
    process_start: str
    """Clock ticks from the start of the kernel to that of the process: no other has the pid too."""
    user: str
    since: str
    slurm_job_id: str = ""
    slurm_restart_count: int = 0
    slurm_cluster: str = ""

    def __str__(self) -> str:
        job = f", Slurm job {self.slurm_job_id}" if self.slurm_job_id else ""
        return f"process {self.pid} on {self.host} (user {self.user}{job}, since {self.since})"

    @property
    def how_to_stop(self) -> str:
        """The command that stops it."""
        if self.slurm_job_id:
            return f"scancel {self.slurm_job_id}"
        return f"kill {self.pid} on {self.host}"


def this_process(folder: Path) -> Holder:
    """This process, as the holder of a lock in `folder`."""
    return Holder(
        folder=str(folder.resolve()),
        host=socket.gethostname(),
        boot_id=_read("/proc/sys/kernel/random/boot_id"),
        pid_namespace=_pid_namespace(),
        pid=os.getpid(),
        process_start=process_start(os.getpid()) or "",
        user=_user(),
        since=datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        slurm_job_id=os.environ.get("SLURM_JOB_ID", ""),
        slurm_restart_count=int(os.environ.get("SLURM_RESTART_COUNT") or 0),
        slurm_cluster=os.environ.get("SLURM_CLUSTER_NAME", ""),
    )


def is_alive(holder: Holder, me: Holder, inode: int) -> bool | None:
    """Whether `holder` still runs; None where only its heartbeat can tell.

    `me` is this process, `inode` that of the lock's file now.
    """
    if holder.inode != inode and holder.folder != me.folder:
        return False  # the whole folder is a copy, lock included
    if me.boot_id and (holder.boot_id, holder.pid_namespace) == (me.boot_id, me.pid_namespace):
        return _is_alive_here(holder)
    if not holder.slurm_job_id or holder.slurm_cluster != me.slurm_cluster:
        return None
    if holder.slurm_job_id == me.slurm_job_id:
        # A requeued job starts after all processes of its previous try have ended.
        return False if me.slurm_restart_count > holder.slurm_restart_count else None
    state = _job_state(holder.slurm_job_id)
    if state is None or state in ALIVE_STATES:
        return None
    return state in PAUSED_STATES


def process_start(pid: int) -> str | None:
    """The start of a process in clock ticks; None if it has ended, "" if that cannot be read."""
    try:
        # The name of the program, in parentheses, may contain anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        try:
            os.kill(pid, 0)  # /proc may hide processes of other users
        except ProcessLookupError:
            return None
        except PermissionError:
            return ""
        return ""
    return None if fields[0] in "ZX" else fields[19]


def _is_alive_here(holder: Holder) -> bool | None:
    start = process_start(holder.pid)
    if start == "":
        return None
    return start == holder.process_start


def _job_state(job_id: str) -> str | None:
    """Slurm's state of a job, "" if it knows none (any more); None if Slurm did not answer."""
    command = ["squeue", "--noheader", "--jobs", job_id, "--states=all", "--format=%T"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SLURM_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode:
        return "" if "Invalid job id" in done.stderr else None
    return (done.stdout.split() or [""])[0]


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without an entry for this user
        return str(os.getuid())
