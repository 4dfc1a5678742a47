"""What the tries of a Slurm job have done, in a file of its work folder.

A requeued job runs the same command again. This file tells it what not to repeat, and whether its
tries still finish parts.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from data_prep.dataset.atomic import write_atomic
from data_prep.stages import STAGES

STATE_NAME = "slurm_job.json"


@dataclass(frozen=True)
class JobState:
    """Of one job."""

    job_id: str
    finished: int = 0
    """Parts that were finished at the end of the last try that reached its time limit."""
    tries: int = 0
    """Tries in a row that reached it and finished no part."""
    restarted_from: str = ""
    """The stage that the job has started again from, as its option says."""


def read_state(work: Path, job_id: str) -> JobState:
    """The state of this job; a new one if the work folder has none, or that of another job."""
    path = work / STATE_NAME
    if path.exists():
        state = JobState(**json.loads(path.read_bytes()))
        if state.job_id == job_id:
            return state
    return JobState(job_id)


def write_state(work: Path, state: JobState) -> None:
    """Replaces the state of the work folder, whole or not at all."""
    write_atomic(work / STATE_NAME, json.dumps(asdict(state)) + "\n")


def finished_parts(work: Path) -> int:
    """Parts of all stages whose record is on disk."""
    return sum(len(list((work / entry.name).glob("*.record.json"))) for entry in STAGES)


def has_restarted(work: Path, stage: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this is a later try of a Slurm job that has removed the work from `stage` on before.

    Its command line still asks for that, and would remove what the try before has done.
    """
    if int(environment.get("SLURM_RESTART_COUNT") or 0) == 0:
        return False
    return read_state(work, environment.get("SLURM_JOB_ID", "")).restarted_from == stage


def note_restart(work: Path, stage: str, environment: Mapping[str, str] = os.environ) -> None:
    """Notes that the work from `stage` on was removed, if this process is in a Slurm job."""
    job_id = environment.get("SLURM_JOB_ID", "")
    if job_id:
        state = replace(read_state(work, job_id), restarted_from=stage, tries=0)
        write_state(work, replace(state, finished=finished_parts(work)))
