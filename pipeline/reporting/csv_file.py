"""The values of a report as CSV: those of its charts, or those of every step."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from data_prep.dataset.atomic import open_atomic
from pipeline.reporting.charts import run_names
from pipeline.reporting.events import EventReader
from pipeline.reporting.run_record import RunRecord
from pipeline.tracking.event_log import LOG_NAME

POINTS_HEAD = ("run", "metric", "step", "steps", "mean", "least", "greatest")


def write_points(path: Path, runs: Sequence[RunRecord]) -> None:
    """Writes the points of the curves: a line for each run, metric and group of `steps` steps.

    ``step`` is the mean step of the group: the step itself where it is one.
    """
    _write(path, POINTS_HEAD, _points(runs))


def write_steps(path: Path, runs: Sequence[RunRecord]) -> None:
    """Writes every recorded step: a line for each run and step, a column for each metric.

    The logs are read once more. Raises OSError.
    """
    names = list(dict.fromkeys(name for run in runs for name in run.curves))
    _write(path, ("run", "step", "time_ms", *names), _steps(runs, names))


def _points(runs: Sequence[RunRecord]) -> Iterator[Sequence[Any]]:
    for run, run_name in zip(runs, run_names(runs), strict=True):
        for metric, curve in {**run.curves, **run.system}.items():
            points = curve.points()
            columns = (points.steps, points.num_steps, points.mean, points.low, points.high)
            for row in zip(*(column.tolist() for column in columns), strict=True):
                yield run_name, metric, f"{row[0]:g}" if row[1] > 1 else int(row[0]), *row[1:]


def _steps(runs: Sequence[RunRecord], names: Sequence[str]) -> Iterator[Sequence[Any]]:
    for run, run_name in zip(runs, run_names(runs), strict=True):
        for event in EventReader(run.folder / LOG_NAME).events():
            if event["kind"] == "metrics":
                values = event.get("values", {})
                found = [values.get(name, "") for name in names]
                yield run_name, event["step"], event["time_ms"], *found


def _write(path: Path, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with open_atomic(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(head)
        writer.writerows(rows)
        text.flush()
        text.detach()
