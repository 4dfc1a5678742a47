"""The event log of a run, ``events.jsonl`` in its folder: one JSON object per line.

Training only appends to this file. Another process reads it and sends the events to MLflow, so a
tracking server that is slow or down never delays training, and an event that was not sent yet is
still here. A disk that is full does not end training: events are kept in memory and written later.

| kind | content |
|---|---|
| created | `key`: the id of the folder that the record was started in |
| start | `resumed_from`: the last optimizer step that is kept, 0 for a new run; parameters, tags; \
`removed_to`: the last step whose metrics were removed, because it is computed again |
| rollback | `reason`; the rows from `start_row` to before `end_row` are skipped from here on |
| metrics | `step`, and `values` by name |
| tables | `step`, and by task what an evaluation found for each label (`label_tables.py`) |
| note | parameters, tags, files |
| end | the state of the run |

Every event has `kind` and `time_ms` (Unix time).
"""

import contextlib
import json
import logging
import os
import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from configs.redact import redact
from data_prep.dataset.atomic import open_atomic
from pipeline.run.folder_identity import identify
from pipeline.tracking.json_lines import (
    append_lines,
    copy_bytes,
    open_regular,
    parse_line,
    read_objects,
)

LOG_NAME = "events.jsonl"

OLD_KINDS = {"begin": "start"}
"""Kinds of events by the names that they had up to version 0.1.0."""

OLD_KEYS = {"behind_step": "resumed_from"}
"""Keys of events by the names that they had up to version 0.1.0."""

MAX_UNWRITTEN_BYTES = 32 << 20
"""Events that wait for space on the disk; beyond it the oldest are lost."""

RETRY_S = 1.0
"""How often it is tried to write events that wait."""

logger = logging.getLogger(__name__)


class EventLog:
    """Appends events to the log of one run. Only one process may write it: rank 0."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / LOG_NAME
        self._unwritten: deque[bytes] = deque()
        self._unwritten_bytes = 0
        self._retry_at: float | None = None
        """When to try again, on the monotonic clock; None while writing succeeds."""
        self.num_lost = 0
        """Events that were dropped because the disk stayed full."""
        key = identify(folder).id
        if not self._path.exists() or self._path.stat().st_size == 0:
            self.append("created", {"key": key})

    @property
    def num_unwritten(self) -> int:
        """Events that are only in memory."""
        return len(self._unwritten)

    def append(self, kind: str, content: Mapping[str, Any], time_s: float | None = None) -> None:
        """Adds one event of the Unix time `time_s` (None: now), without credentials; the operating
        system has it when this returns.

        An event that cannot be written waits in memory, which is logged.
        """
        time_ms = int((time.time() if time_s is None else time_s) * 1000)
        event = {"kind": kind, "time_ms": time_ms, **redact(content)}
        self._unwritten.append((json.dumps(event) + "\n").encode())
        self._unwritten_bytes += len(self._unwritten[-1])
        if self._retry_at is None or kind != "metrics" or time.monotonic() >= self._retry_at:
            self._write()
        while self._unwritten_bytes > MAX_UNWRITTEN_BYTES:
            self._unwritten_bytes -= len(self._unwritten.popleft())
            self.num_lost += 1

    def metrics(self, step: int, values: Mapping[str, float], time_s: float | None = None) -> None:
        """Adds the metrics of optimizer step `step`, which ended at the Unix time `time_s`."""
        self.append("metrics", {"step": step, "values": dict(values)}, time_s)

    def discard_after(self, step: int) -> int | None:
        """Removes the metrics of steps after `step`, and returns the last of them; None: no step.

        For a run that resumes from step `step` and repeats the later ones. Where there is no space
        for the new file they stay, and the start that follows says from which step on they are
        repeated.
        """
        try:
            return self._discard_after(step)
        except OSError as error:
            logger.warning(
                "%s: metrics of steps after %d are not removed (%s)", self._path, step, error
            )
            return None

    def report_lost(self) -> None:
        """Tries to write what waits, and logs how many events are lost if the disk is still full.

        For the end of a run.
        """
        if self._unwritten:
            self._write()
        lost = self.num_lost + len(self._unwritten)
        if lost:
            logger.error("%s: %d events could not be written and are lost", self._path, lost)

    def _write(self) -> None:
        try:
            append_lines(self._path, self._unwritten)
        except OSError as error:
            if self._retry_at is None:
                logger.warning(
                    "%s: cannot be written (%s); training continues, events are kept in memory "
                    "(at most %d MB) and written as soon as possible",
                    *(self._path, error.strerror or error, MAX_UNWRITTEN_BYTES >> 20),
                )
            self._retry_at = time.monotonic() + RETRY_S
            with contextlib.suppress(OSError):  # the watch for a silent job sees that it runs
                os.utime(self._path)
        else:
            if self._retry_at is not None:
                logger.info("%s: can be written again", self._path)
            self._retry_at = None
        self._unwritten_bytes = sum(map(len, self._unwritten))

    def _discard_after(self, step: int) -> int | None:
        first, start = None, 0
        for event, end in read_events(self._path):
            if _is_after(event, step):
                first = start
                break
            start = end
        if first is None:
            return None
        with open_regular(self._path) as stream, open_atomic(self._path) as target:
            copy_bytes(stream, target, first)
            return _copy_kept(stream, target, step)


def _copy_kept(stream: BinaryIO, target: BinaryIO, step: int) -> int:
    """Copies the remaining whole lines but the metrics of steps after `step`, and returns the last
    of those steps."""
    last = step
    for line in stream:
        if not line.endswith(b"\n"):
            break
        event = parse_line(line)
        if _is_after(event, step):
            last = max(last, event["step"])
        else:  # unreadable ones stay, and are reported
            target.write(line)
    return last


def _is_after(event: Any, step: int) -> bool:
    return is_event(event) and event["kind"] == "metrics" and bool(event["step"] > step)


def read_events(path: Path, offset: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
    """Each complete event from byte `offset` on, with the byte offset of its end.

    A line that is no event is skipped, and reported with its number and bytes.
    """
    for event, end in read_objects(path, offset, is_event):
        yield with_new_names(event), end


def metric_points(output: Path, *metrics: str) -> dict[str, list[tuple[int, float]]]:
    """(optimizer step, value) of each of `metrics` in the record of the run in `output`, by step.

    Of a step that was repeated after a resume, the last value counts.
    """
    found: dict[str, dict[int, float]] = {metric: {} for metric in metrics}
    for event, _ in read_events(output / LOG_NAME):
        if event["kind"] == "metrics":
            for metric in found.keys() & event["values"].keys():
                found[metric][int(event["step"])] = float(event["values"][metric])
    return {metric: sorted(points.items()) for metric, points in found.items()}


def is_event(event: Any) -> bool:
    """Whether a JSON value has the shape of an event."""
    if not isinstance(event, dict) or not isinstance(event.get("kind"), str):
        return False
    if not isinstance(event.get("time_ms"), int):
        return False
    mappings = all(
        isinstance(event.get(key, {}), dict) for key in ("params", "tags", "values", "parent")
    )
    lists = all(isinstance(event.get(key, []), list) for key in ("datasets", "files"))
    if not (mappings and lists) or not isinstance(event.get("status", ""), str):
        return False
    if event["kind"] not in ("metrics", "system"):
        return isinstance(event.get("resumed_from", 0), int)
    return isinstance(event.get("step"), int) and all(
        isinstance(value, int | float) for value in event.get("values", {"": None}).values()
    )


def with_new_names(event: dict[str, Any]) -> dict[str, Any]:
    renamed = {OLD_KEYS.get(key, key): value for key, value in event.items()}
    renamed["kind"] = OLD_KINDS.get(renamed["kind"], renamed["kind"])
    return renamed
