"""What the folder of a run records, read for a report. Imports no torch."""

import errno
import logging
import math
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from configs.load import UserError
from data_prep.dataset.files import read_json
from pipeline.reporting.curve import Curve, Floats
from pipeline.reporting.events import EventReader
from pipeline.reporting.launches import Launches
from pipeline.reporting.saves import Save, read_saves
from pipeline.reporting.system import read_system
from pipeline.run.run_folder import DONE_NAME, RUN_NAME
from pipeline.tracking.event_log import LOG_NAME

CHUNK_EVENTS = 8192
MAX_METRICS = 2000
"""Names of metrics that are kept; further ones are counted."""
MAX_SKIPPED = 200
"""Steps without an update that are kept one by one."""

logger = logging.getLogger(__name__)


@dataclass
class RunRecord:
    """One run."""

    folder: Path
    name: str
    curves: dict[str, Curve] = field(default_factory=lambda: defaultdict(Curve))
    times: Curve = field(default_factory=Curve)
    """Unix time in seconds by step."""
    launches: Launches = field(default_factory=Launches)
    saves: list[Save] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)
    """The first steps that changed no weight."""
    num_skipped: int = 0
    hosts: list[str] = field(default_factory=list)
    """Nodes that sampled their processors."""
    system: dict[str, Curve] = field(default_factory=dict)
    """What they sampled, all nodes together."""
    done: dict[str, Any] | None = None
    """The content of DONE; None: the run is not finished."""
    start: dict[str, Any] | None = None
    """The content of start.json; None: random weights, or not recorded."""
    problems: list[str] = field(default_factory=list)
    """What could not be read, with counts."""

    @property
    def last_step(self) -> int:
        """The last recorded optimizer step, 0 before the first."""
        return self.times.last.step if self.times.last else 0

    def time_of(self, steps: Floats) -> Floats:
        """Unix time in seconds at which `steps` were recorded, between neighbours estimated."""
        points = self.times.points()
        if not points.steps.size:
            return np.full_like(steps, np.nan)
        return np.interp(steps, points.steps, points.mean)


def read_run(folder: Path) -> RunRecord:
    """The record of the run in `folder`. Raises UserError if the folder holds none."""
    run = RunRecord(folder, folder.resolve().name)
    path = folder / LOG_NAME
    try:
        reader = EventReader(path)
        _read_events(run, reader)
    except OSError as error:
        raise UserError(_no_record(folder, error)) from None
    for count, what in (
        (reader.num_unreadable, f"line(s) of {LOG_NAME} hold no event and were left out"),
        (reader.num_repeated, "recorded step(s) were computed again: the later values count"),
        (reader.has_torn_end, f"incomplete last line of {LOG_NAME}: being written, or cut off"),
    ):
        if count:
            run.problems.append(f"{int(count):,} {what}")
    run.saves, problems = read_saves(folder)
    run.problems += problems
    run.done = _read_tree(run, DONE_NAME)
    run.start = _read_tree(run, "start.json")
    stored = _read_tree(run, RUN_NAME)
    config = stored.get("config") if stored else None
    name = config.get("name") if isinstance(config, dict) else None
    run.name = str(run.launches.parameters.get("name") or name or run.name)
    run.hosts, run.system, problems = read_system(folder)
    run.problems += problems
    for problem in run.problems:
        logger.warning("%s: %s", folder, problem)
    return run


def _read_events(run: RunRecord, reader: EventReader) -> None:
    chunk: list[dict[str, Any]] = []
    refused: set[str] = set()
    for event in reader.events():
        if event["kind"] == "metrics":
            run.launches.metrics(event["step"], event["time_ms"])
            chunk.append(event)
            if len(chunk) == CHUNK_EVENTS:
                refused |= _add_metrics(run, chunk)
                chunk = []
        else:
            run.launches.note(event)
    refused |= _add_metrics(run, chunk)
    if refused:
        run.problems.append(f"{len(refused):,} metrics beyond {MAX_METRICS:,} names were left out")


def _add_metrics(run: RunRecord, events: list[dict[str, Any]]) -> set[str]:
    """Adds metrics to the curves, and returns the names for which there is no place."""
    steps: dict[str, list[int]] = defaultdict(list)
    values: dict[str, list[float]] = defaultdict(list)
    for event in events:
        step = event["step"]
        for name, value in event.get("values", {}).items():
            steps[name].append(step)
            values[name].append(value)
        if event.get("values", {}).get("skipped"):
            run.num_skipped += 1
            if len(run.skipped) < MAX_SKIPPED:
                run.skipped.append(step)
    if events:
        all_steps = np.array([event["step"] for event in events], dtype=np.int64)
        run.times.add(all_steps, _floats([event["time_ms"] / 1000 for event in events]))
    refused = set()
    for name, found in values.items():
        if name not in run.curves and len(run.curves) >= MAX_METRICS:
            refused.add(name)
        else:
            run.curves[name].add(np.array(steps[name], dtype=np.int64), _floats(found))
    return refused


def _floats(values: list[float]) -> Floats:
    try:
        return np.array(values, dtype=np.float64)
    except OverflowError:  # an integer beyond all floats
        return np.array([_float(value) for value in values])


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _read_tree(run: RunRecord, name: str) -> dict[str, Any] | None:
    """The JSON object in a file of the run; None where there is no such file, or it is damaged."""
    try:
        return read_json(run.folder / name)
    except FileNotFoundError:
        return None
    except (OSError, UserError) as error:
        run.problems.append(f"{name} cannot be read ({error})")
        return None


def _no_record(folder: Path, error: OSError) -> str:
    if folder.is_file():
        return f"{folder}: give the folder of a run, the `output` of its config"
    if not folder.exists():
        return f"{folder}: no such folder"
    if (folder / LOG_NAME).exists():
        reason = "a link, which is not followed" if error.errno == errno.ELOOP else error.strerror
        return f"{folder / LOG_NAME}: cannot be read ({reason or error})"
    inner = sorted(path.parent for path in folder.glob(f"*/{LOG_NAME}"))
    message = f"{folder}: no {LOG_NAME}: this is not the folder of a run that was started"
    if inner:
        message += f"; runs in it: {', '.join(map(str, inner[:10]))}"
    elif (folder / "checkpoints").is_dir():
        message += " (an average of checkpoints has no steps to report)"
    return message
