"""System metrics of many nodes as a few figures: mean, lowest and highest over nodes and devices.

One node has a handful of values every ten seconds, and MLflow takes them all. Those of a hundred
nodes would be gigabytes of metrics a day. The samples themselves stay in ``system/HOST.jsonl``.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from pipeline.tracking.event_log import is_event
from pipeline.tracking.json_lines import read_objects
from pipeline.tracking.system_metrics import PERIOD_S

MAX_NODES_APART = 4
"""Up to so many nodes each have metrics of their own."""
WINDOW_MS = int(PERIOD_S * 1000)
SETTLE_MS = 60_000 + 3 * WINDOW_MS
"""Samples that are older than this are complete: the clocks of nodes differ by at most a minute,
which `pipeline.node_check` checks."""
RECENT_S = 3600.0
"""Nodes whose last sample is older, compared with the newest of all, were of an earlier launch."""
MAX_READ_MS = 360 * WINDOW_MS
"""Of how long the samples are read at once, where they were not sent for long."""

MetricValue = tuple[str, float, int, int]
"""(name, value, Unix time in ms, optimizer step)"""

_DEVICE = re.compile(r"^gpu_\d+_")


def num_nodes(paths: Sequence[Path]) -> int:
    """The nodes that were sampled lately, of those with a file."""
    times = [path.stat().st_mtime for path in paths]
    return sum(max(times, default=0.0) - time < RECENT_S for time in times)


def summarise(events: Iterable[Mapping[str, Any]]) -> list[MetricValue]:
    """The summary of each window of `events`, samples of any number of nodes, by time."""
    windows: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    steps: dict[int, int] = defaultdict(int)
    for event in events:
        window = event["time_ms"] // WINDOW_MS
        steps[window] = max(steps[window], event["step"])
        for name, value in event["values"].items():
            plain = _DEVICE.sub("gpu_", name.rpartition("/")[2])
            windows[window][plain].append(value)
    return [
        (f"system/{kind}/{name}", reduce(values), (window + 1) * WINDOW_MS, steps[window])
        for window in sorted(windows)
        for name, values in sorted(windows[window].items())
        for kind, reduce in (("mean", fmean), ("min", min), ("max", max))
    ]


def read_complete(
    folder: Path, offsets: Mapping[str, int], now_ms: int
) -> Iterator[tuple[list[Mapping[str, Any]], dict[str, int]]]:
    """The samples in `folder` from `offsets` on, whose windows are complete at `now_ms`.

    Gives a few hours at a time, with the offsets after them, by file.
    """
    paths = sorted(folder.glob("*.jsonl"))
    last = (now_ms - SETTLE_MS) // WINDOW_MS * WINDOW_MS
    reached = dict(offsets)
    while True:
        firsts = [
            first["time_ms"]
            for path in paths
            if (first := _first_event(path, reached.get(path.name, 0))) is not None
        ]
        if not firsts or min(firsts) >= last:
            return
        start = min(firsts) // WINDOW_MS * WINDOW_MS
        end = min(last, start + MAX_READ_MS)
        events: list[Mapping[str, Any]] = []
        for path in paths:
            for event, after in read_objects(path, reached.get(path.name, 0), is_event):
                if event["time_ms"] >= end:
                    break
                events.append(event)
                reached[path.name] = after
        yield events, dict(reached)


def _first_event(path: Path, offset: int) -> Mapping[str, Any] | None:
    if path.stat().st_size <= offset:
        return None
    return next((event for event, _ in read_objects(path, offset, is_event)), None)
