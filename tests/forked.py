"""Commands in a forked process, which has imported at the start what this one has."""

import os
import runpy
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path


class ForkedProcess:
    """`function()` in a process of its own, in which `environment` is added to this one's."""

    def __init__(self, function: Callable[[], object], **environment: str) -> None:
        # Closed by `wait`, after the process has written to them.
        self._stdout, self._stderr = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115
        self.pid = os.fork()
        if not self.pid:
            self._run(function, environment)

    def _run(self, function: Callable[[], object], environment: dict[str, str]) -> None:
        code = 1
        try:
            os.dup2(self._stdout.fileno(), 1)
            os.dup2(self._stderr.fileno(), 2)
            sys.stdout, sys.stderr = open(1, "w"), open(2, "w")  # noqa: SIM115
            os.environ.update(environment)
            function()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)  # no cleanup of what the parent owns, such as pytest's files

    def wait(self) -> subprocess.CompletedProcess[str]:
        """Its exit code and output, once it has ended."""
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        outputs = []
        for file in (self._stdout, self._stderr):
            file.seek(0)
            outputs.append(file.read().decode())
            file.close()
        return subprocess.CompletedProcess([], code, *outputs)


def run_script(path: Path, *arguments: str) -> None:
    """What `python PATH ARGUMENTS` does."""
    sys.argv = [str(path), *arguments]
    runpy.run_path(str(path), run_name="__main__")
