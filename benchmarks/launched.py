"""A command started as a user would start it, in a process group of its own."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
_LAST_LINES = 30


class Launched(subprocess.Popen[bytes]):
    """Python with `arguments` in the repository's root, what it prints appended to `log`."""

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        self._log = log
        with log.open("ab") as stream:
            super().__init__(
                [sys.executable, *arguments],
                cwd=_ROOT,
                start_new_session=True,
                stdout=stream,
                stderr=stream,
            )

    def finish(self) -> None:
        """Waits for the end; raises RuntimeError with the last lines of the log if it failed."""
        if self.wait():
            text = last_lines(self._log)
            raise RuntimeError(f"the command ended with code {self.returncode}:\n{text}")


def last_lines(log: Path) -> str:
    """The end of a log, where the reason of a failure is."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-_LAST_LINES:])
