"""One launch at a time in a run's folder: who is refused, and whose lock is taken over."""

import atexit
import json
import os
import shutil
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from configs import folder_lock, lock_holder
from configs.folder_lock import RunLock, hold
from configs.load import UserError
from configs.lock_holder import is_alive, process_start, this_process
from tests.forked import ForkedProcess


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short times, no Slurm variables of the machine, and no lock of this process at its end."""
    monkeypatch.setattr(folder_lock, "HEARTBEAT_S", 0.05)
    monkeypatch.setattr(folder_lock, "POLL_S", 0.02)
    monkeypatch.setattr(folder_lock, "STALE_S", 0.6)
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(atexit, "register", lambda function: None)


def locks(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "lock").iterdir())


def rewrite(lock: RunLock, **changes: Any) -> None:
    """Lets the lock say something else about its holder; keeps its inode."""
    lock.path.write_text(json.dumps({**json.loads(lock.path.read_text()), **changes}))


def silence(lock: RunLock) -> None:
    """Ends the heartbeat, as the end of the process would."""
    lock._stop.set()
    lock._thread.join()


def elsewhere(lock: RunLock, **changes: Any) -> None:
    """Moves the holder to a host that cannot be asked."""
    rewrite(lock, boot_id="of another host", host="node9", **changes)


def hold_until(run: Path, ready: Path) -> None:
    hold(run)
    ready.touch()
    time.sleep(60)


def start_holder(run: Path, ready: Path) -> ForkedProcess:
    holder = ForkedProcess(lambda: hold_until(run, ready))
    while not ready.exists():
        time.sleep(0.01)
    return holder


def test_a_folder_in_use_is_refused_with_process_host_and_time(tmp_path: Path) -> None:
    holder = start_holder(tmp_path / "run", tmp_path / "ready")
    try:
        with pytest.raises(UserError) as refused:
            hold(tmp_path / "run")
    finally:
        os.kill(holder.pid, signal.SIGKILL)
    for part in (f"process {holder.pid} on ", "since 2", f"kill {holder.pid}", "different folder"):
        assert part in str(refused.value)
    # A zombie until it is waited for, as under a launcher that was killed too.
    while process_start(holder.pid) is not None:
        time.sleep(0.01)
    lock = hold(tmp_path / "run")
    assert locks(tmp_path / "run") == ["000002.held"]
    lock.release()
    holder.wait()


def test_a_stopped_process_keeps_its_folder(tmp_path: Path) -> None:
    holder = start_holder(tmp_path / "run", tmp_path / "ready")
    os.kill(holder.pid, signal.SIGSTOP)
    try:
        with pytest.raises(UserError, match="in use"):
            hold(tmp_path / "run")
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()


def test_a_released_folder_is_free(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        hold(tmp_path).release()
        assert locks(tmp_path) == [f"{number:06d}.released"]


def test_a_pid_that_belongs_to_a_later_process_is_not_the_holder(tmp_path: Path) -> None:
    lock = hold(tmp_path)
    rewrite(lock, process_start="1")
    silence(lock)
    hold(tmp_path).release()


def test_on_another_host_the_heartbeat_decides(tmp_path: Path) -> None:
    lock = hold(tmp_path)
    elsewhere(lock)
    with pytest.raises(UserError, match="on node9"):
        hold(tmp_path)
    silence(lock)
    started_at = time.monotonic()
    hold(tmp_path).release()
    assert time.monotonic() - started_at >= folder_lock.STALE_S


@pytest.mark.parametrize(
    ("answer", "is_refused"),
    [
        ("echo RUNNING", False),
        ("echo PENDING", False),
        ("echo SUSPENDED", True),
        ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", False),
    ],
)
def test_the_state_of_another_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, is_refused: bool
) -> None:
    squeue = tmp_path / "squeue"
    squeue.write_text(f"#!/bin/sh\n{answer}\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    lock = hold(tmp_path / "run")
    elsewhere(lock, slurm_job_id="12")
    silence(lock)
    if is_refused:
        with pytest.raises(UserError, match=r"Slurm job 12.*scancel 12"):
            hold(tmp_path / "run")
    else:
        started_at = time.monotonic()
        hold(tmp_path / "run").release()
        has_waited = time.monotonic() - started_at >= folder_lock.STALE_S
        assert has_waited == (answer == "echo RUNNING")


def test_a_requeued_job_takes_over_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setattr(lock_holder, "_job_state", lambda job: pytest.fail("asked Slurm"))
    lock = hold(tmp_path)
    elsewhere(lock)
    with pytest.raises(UserError, match="Slurm job 12"):
        hold(tmp_path)  # a second step of the same try
    silence(lock)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    hold(tmp_path).release()


def test_a_copied_folder_is_not_in_use(tmp_path: Path) -> None:
    lock = hold(tmp_path / "run")
    silence(lock)
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    hold(tmp_path / "copy").release()
    (tmp_path / "run").rename(tmp_path / "moved")
    (path,) = (tmp_path / "moved" / "lock").iterdir()
    holder = lock_holder.Holder.model_validate_json(path.read_text())
    assert is_alive(holder, this_process(tmp_path / "moved"), path.stat().st_ino)


def test_a_lock_without_content_counts_as_stale(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    (tmp_path / "lock" / "000001.held").touch()
    hold(tmp_path).release()
    assert locks(tmp_path) == ["000002.released"]


def try_to_hold(run: Path, go: Path) -> None:
    while not go.exists():
        time.sleep(0.001)
    try:
        hold(run)
    except UserError as error:
        raise SystemExit(str(error)) from None
    time.sleep(1.5)


def test_of_many_starts_at_once_one_holds_a_stale_lock(tmp_path: Path) -> None:
    for round_ in range(3):
        run, go = tmp_path / f"run{round_}", tmp_path / f"go{round_}"
        stale = hold(run)
        rewrite(stale, process_start="1")
        silence(stale)
        starts = [ForkedProcess(partial(try_to_hold, run, go)) for _ in range(8)]
        go.touch()
        done = [start.wait() for start in starts]
        assert [d.returncode for d in done].count(0) == 1, [d.stderr for d in done]
        assert [d.returncode for d in done].count(1) == 7


def lose_lock(run: Path) -> None:
    lock = hold(run)
    lock.path.unlink()
    time.sleep(30)


def test_a_process_that_has_lost_its_lock_ends(tmp_path: Path) -> None:
    started_at = time.monotonic()
    assert ForkedProcess(lambda: lose_lock(tmp_path)).wait().returncode == folder_lock.EXIT_LOST
    assert time.monotonic() - started_at < 20


def test_an_output_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(UserError, match="run: not a folder"):
        hold(tmp_path / "run")
