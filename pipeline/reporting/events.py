"""Reads the event log of a run once from start to end: in bounded memory, while it is written.

The file is opened once, and read as far as it went then. Damaged lines are counted. Steps that a
later start repeats count once: training removes their old values from the log, unless the disk is
full.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from pipeline.tracking.event_log import is_event, with_new_names
from pipeline.tracking.json_lines import MAX_LINE_BYTES, open_regular, parse_line

_START_KINDS = (b'"start"', b'"begin"')
"""As they stand in the log of this version and of version 0.1.0."""
_TOO_LONG = b"?\n"
MAX_STEP = 1 << 53
_METRICS_COUNTS = ("step", "time_ms")
_COUNTS = ("time_ms", "resumed_from", "behind_step", "removed_to", "start_row", "end_row")


class EventReader:
    """The events of one log, and what was not readable in it."""

    def __init__(self, path: Path) -> None:
        """Raises OSError if `path` cannot be read, or is no regular file."""
        self._path = path
        self.num_unreadable = 0
        """Lines that hold no event."""
        self.num_repeated = 0
        """Metrics that were left out because a later start repeats their steps."""
        self.has_torn_end = False
        """Whether the last line is incomplete: being written, or cut off by a crash."""
        with open_regular(path):
            pass

    def events(self) -> Iterator[dict[str, Any]]:
        """Every event but repeated metrics. Raises OSError."""
        with open_regular(self._path) as stream:
            end = os.fstat(stream.fileno()).st_size
            limits = _limits(stream, end)
            for offset, line in _lines(stream, end):
                if not line.endswith(b"\n"):
                    self.has_torn_end = True
                    continue
                event = _parse(line)
                if not _is_usable(event):
                    self.num_unreadable += bool(line.strip())
                elif event["kind"] != "metrics":
                    yield with_new_names(event)
                else:
                    while limits and limits[-1][0] <= offset:
                        limits.pop()
                    if limits and event["step"] > limits[-1][1]:
                        self.num_repeated += 1
                    else:
                        yield event


def _parse(line: bytes) -> Any:
    """The JSON value in a line, None where it holds none."""
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:  # it refuses NaN and Infinity, which Python writes
        return parse_line(line)


def _is_usable(event: Any) -> bool:
    """Whether a JSON value is an event whose numbers are steps, rows and times that can be."""
    if not is_event(event):
        return False
    keys = _METRICS_COUNTS if event["kind"] == "metrics" else _COUNTS
    counts = [event[key] for key in keys if key in event]
    return all(isinstance(count, int) and 0 <= count <= MAX_STEP for count in counts)


def _limits(stream: BinaryIO, end: int) -> list[tuple[int, int]]:
    """(offset of a start, the last step before it that counts), the last start first.

    A step before several starts counts only if none of them repeats it.
    """
    starts = []
    for offset, line in _lines(stream, end):
        if line.startswith(b'{"kind": "metrics"') or not any(k in line for k in _START_KINDS):
            continue
        event = parse_line(line)
        if _is_usable(event):
            event = with_new_names(event)
            if event["kind"] == "start" and "resumed_from" in event:
                starts.append((offset, int(event["resumed_from"])))
    least, limits = None, []
    for offset, step in reversed(starts):
        least = step if least is None else min(least, step)
        limits.append((offset, least))
    return limits


def _lines(stream: BinaryIO, end: int) -> Iterator[tuple[int, bytes]]:
    """(offset, line) of each line up to byte `end`; `_TOO_LONG` for one that is too long."""
    stream.seek(0)
    offset = 0
    while offset < end and (line := stream.readline(min(MAX_LINE_BYTES, end - offset))):
        start, offset = offset, offset + len(line)
        while not line.endswith(b"\n") and offset < end:
            rest = stream.readline(min(MAX_LINE_BYTES, end - offset))
            if not rest:
                break
            offset += len(rest)
            line = _TOO_LONG if rest.endswith(b"\n") else b"?"
        yield start, line
