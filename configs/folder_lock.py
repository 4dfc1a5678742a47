"""A lock that keeps two runs out of one folder, also on shared file systems.

``FOLDER/lock/000007.held`` describes the process that holds the folder; it changes the file's time
every few seconds (the heartbeat). At its end it renames the file to ``.released``.

A lock is taken by the exclusive creation of the next number, which NFS and Lustre guarantee to
one process alone. A held lock is never removed or renamed by another process before a higher number
exists, so a take-over has no moment without a lock. The lock of a process that is gone is stale: on
the same machine its pid and start time tell, in a Slurm job the job's state, elsewhere a heartbeat
that does not move. No clocks of different hosts are compared.
"""

import atexit
import logging
import os
import threading
import time
from pathlib import Path

from pydantic import ValidationError

from configs.load import UserError
from configs.lock_holder import Holder, is_alive, this_process

LOCK_FOLDER = "lock"
HEARTBEAT_S = 5.0
STALE_S = 120.0
"""A heartbeat that has not moved for so long has stopped."""
POLL_S = 1.0
EXIT_LOST = 1

logger = logging.getLogger(__name__)


class RunLock:
    """The lock of a folder, held by this process until `release` or its end."""

    def __init__(self, folder: Path, number: int) -> None:
        """Use `hold`."""
        self._folder = folder
        self._number = number
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="run-lock", daemon=True)
        self._thread.start()

    @property
    def path(self) -> Path:
        """The lock's file."""
        return _held(self._folder, self._number)

    def release(self) -> None:
        """Ends the lock; the next start then need not find out whether this process is gone."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._thread.join()
        try:
            self.path.rename(self.path.with_suffix(".released"))
        except OSError as error:
            logger.warning("%s: the lock was not released: %s", self.path, error)

    def _beat(self) -> None:
        is_reported = False
        while not self._stop.wait(HEARTBEAT_S):
            try:
                os.utime(self.path)
            except FileNotFoundError:
                logger.error(
                    "%s: the lock was taken over or deleted while this process did not run: it "
                    "ends, so that two launches do not write into one folder",
                    self.path,
                )
                os._exit(EXIT_LOST)
            except OSError as error:  # the file server may come back
                if not is_reported:
                    logger.warning("%s: no heartbeat: %s", self.path, error)
                is_reported = True


def hold(output: Path) -> RunLock:
    """The lock of the folder `output` of a run, which is made; released when this process ends.

    Waits, at most STALE_S seconds, where only the heartbeat of the holder can tell whether it still
    runs. Raises UserError that names the holder if it does.
    """
    folder = output / LOCK_FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{output}: not a folder: choose a different output") from None
    except FileNotFoundError as error:  # in /proc, for example
        raise UserError(
            f"{folder}: cannot be made: {error.strerror}: choose a different output"
        ) from None
    me = this_process(output)
    while True:
        number, is_held = _newest(folder)
        if is_held:
            _wait_until_stale(output, _held(folder, number), me)
        if _create(folder, number + 1, me):
            break  # otherwise another start was faster: it is the holder now
    lock = RunLock(folder, number + 1)
    atexit.register(lock.release)  # after the thread that writes checkpoints has ended
    return lock


def _create(folder: Path, number: int, me: Holder) -> bool:
    """Whether this process has made the lock `number`, the highest one; removes the older ones."""
    path = _held(folder, number)
    try:
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o644)
    except FileExistsError:
        return False
    with os.fdopen(file, "w") as stream:
        inode = os.fstat(file).st_ino
        stream.write(me.model_copy(update={"inode": inode}).model_dump_json(indent=1) + "\n")
        stream.flush()
        os.fsync(file)
    if _newest(folder)[0] != number:  # it had been taken and removed since this process looked
        path.unlink(missing_ok=True)
        return False
    for older in folder.iterdir():
        if _number(older) not in (None, number):
            older.unlink(missing_ok=True)
    return True


def _wait_until_stale(output: Path, path: Path, me: Holder) -> None:
    """Returns when the lock in `path` is no longer that of a running process."""
    observed: tuple[Holder | None, int, int] | None = None
    started_at = time.monotonic()
    while True:
        seen = _read(path)
        if seen is None:
            return
        holder, _, inode = seen
        alive = is_alive(holder, me, inode) if holder is not None else None
        if alive is False:
            logger.info("%s: %s has ended; its lock is taken over", output, holder)
            return
        if alive or (observed is not None and seen != observed and observed[0] is not None):
            raise _in_use(output, path, holder)
        if observed is None and holder is not None:
            logger.info(
                "%s was locked by %s; waiting for its heartbeat, at most %.0f s",
                *(output, holder, STALE_S),
            )
        if observed is None or (holder is not None and observed[0] is None):
            observed = seen
        if time.monotonic() - started_at > STALE_S:
            logger.info("%s: no heartbeat of %s in %.0f s: taken over", output, holder, STALE_S)
            return
        time.sleep(POLL_S)


def _in_use(output: Path, path: Path, holder: Holder | None) -> UserError:
    how = f" ({holder.how_to_stop})" if holder else ""
    return UserError(
        f"{output} is in use by {holder or 'another process'}: two launches in one folder would "
        f"mix two runs. Wait for its end, stop it{how}, or choose a different folder. The same "
        f"command then resumes. (The lock is {path})"
    )


def _read(path: Path) -> tuple[Holder | None, int, int] | None:
    """(holder, time of the last heartbeat in ns, inode) of a lock; None if it is not held now.

    The holder is None while, or if, the file's content is incomplete. Opening the file makes NFS
    ask its server for the time.
    """
    try:
        with path.open("rb") as file:
            content, status = file.read(), os.fstat(file.fileno())
    except FileNotFoundError:
        return None
    try:
        holder = Holder.model_validate_json(content)
    except ValidationError:
        holder = None
    return holder, status.st_mtime_ns, status.st_ino


def _newest(folder: Path) -> tuple[int, bool]:
    """The highest number of a lock in `folder` (0: none), and whether that lock is held."""
    names = list(folder.iterdir())
    newest = max((_number(path) or 0 for path in names), default=0)
    return newest, _held(folder, newest) in names


def _number(path: Path) -> int | None:
    is_lock = path.suffix in (".held", ".released") and path.stem.isdigit()
    return int(path.stem) if is_lock else None


def _held(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.held"
