"""Reports an error once for all ranks of a launch, and lets the Slurm job know of it.

Two cases:
- An error before the run's folder is known, in the config for example. Usually every rank finds it:
  rank 0 reports it at once.
- An error after that. Possibly one rank alone finds it; its peers then fail in their collectives
  and the launcher ends them by signals. Neither may look like a failure that is worth another try.
  So the first rank to find an error leaves the file ERROR in the run's folder. Later errors, and
  those that follow from it on peers, end their process silently with the same exit code.

Launchers end all ranks as soon as one has ended. So a rank whose error another one reports waits
before it ends, or else the message could be lost: rank 0 may have started later, or stand between
leaving the file and printing. A rank that is still there after the wait was alone with its error
before the run's folder was known, and reports it then.

`configs.command.run` prints the error that is raised from here.
"""

import os
import time
from pathlib import Path
from types import TracebackType

from configs.command import EXIT_USER_ERROR
from configs.load import UserError
from configs.redact import redact

ERROR_NAME = "ERROR"

SINGLE_RANK_WAIT_S = 10.0
"""Longer than launchers take to end the peers of a rank, and than ranks differ in starting."""


class ReportOnce:
    """In a ``with`` block of this, one rank of the launch reports an error."""

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._folder: Path | None = None

    def share(self, folder: Path) -> None:
        """From now on ranks know of each other's errors through a file in `folder`.

        Rank 0 removes the file of an earlier launch; call it before the process group exists.
        """
        if self._rank == 0:
            clear_error(folder)
        self._folder = folder

    def __enter__(self) -> "ReportOnce":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, Exception) and not self._is_reported_here(error):
            time.sleep(SINGLE_RANK_WAIT_S)
            raise SystemExit(EXIT_USER_ERROR) from None

    def _is_reported_here(self, error: Exception) -> bool:
        if self._folder is None:
            if isinstance(error, UserError | OSError) and self._rank != 0:
                time.sleep(SINGLE_RANK_WAIT_S)
            return True
        if isinstance(error, UserError):
            return _leave_file(self._folder, redact(f"rank {self._rank}: {error}\n"))
        return not has_error(self._folder)


def has_error(folder: Path) -> bool:
    """Whether a rank of the run in `folder` has reported an error since `clear_error`."""
    return (folder / ERROR_NAME).exists()


def clear_error(folder: Path) -> None:
    """Removes the error of an earlier launch."""
    (folder / ERROR_NAME).unlink(missing_ok=True)


def _leave_file(folder: Path, text: str) -> bool:
    """Whether this rank is the first to leave the file; True also where none can be written."""
    try:
        file = os.open(folder / ERROR_NAME, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return False
    except OSError:
        return True
    with os.fdopen(file, "w") as stream:
        stream.write(text)
    return True
