"""Jobs of data preparation: their config, their workers, and a gate that stops their parts."""

from pathlib import Path
from typing import Any

from tests.data_prep.corpora import config_of

GATED_PARTS = """
import os, time
from data_prep.engine import execution

def gated(run_part):
    calls = []

    def gated_run_part(*arguments):
        calls.append(arguments)
        while len(calls) > {free_parts} and not os.path.exists({gate!r}):
            time.sleep(0.05)
        return run_part(*arguments)

    return gated_run_part

if execution.run_part.__name__ != "gated_run_part":  # dask runs this file twice
    execution.run_part = gated(execution.run_part)
"""


class Gate:
    """Stops each worker before its next part once it has run `free_parts`, until it is opened."""

    def __init__(self, folder: Path, free_parts: int) -> None:
        self._path, module = folder / "gate", folder / "gated_parts.py"
        module.write_text(GATED_PARTS.format(free_parts=free_parts, gate=str(self._path)))
        self.variables = {"DASK_DISTRIBUTED__WORKER__PRELOAD": str(module)}
        """For the environment of the job."""

    def open(self) -> None:
        """Lets all parts run."""
        self._path.touch()


def data_config(folder: Path, made: Path, **changes: Any) -> str:
    """The config file of the rows of `made`, to be made again in `folder`."""
    (folder / "raw").symlink_to(made / "raw")
    path = folder / "data.yaml"
    path.write_text(config_of(folder, **changes).model_dump_json())
    return str(path)


def records_of(work: Path) -> dict[Path, int]:
    """The records of finished parts, with the times at which they were written in ns."""
    return {path: path.stat().st_mtime_ns for path in work.rglob("*.record.json")}


def worker_processes(job_id: str) -> list[int]:
    """Process ids of a job's Dask workers, which are children of their nannies."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes()
                mine = f"SLURM_JOB_ID={job_id}\0".encode() in (entry / "environ").read_bytes()
            except OSError:
                continue
            if mine and b"multiprocessing.spawn" in words and b"spawn_main" in words:
                found.append(int(entry.name))
    return sorted(found)
