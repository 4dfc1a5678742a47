"""System metrics of many nodes: a few figures, every sample once."""

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline.tracking.system_summary import (
    MAX_READ_MS,
    SETTLE_MS,
    WINDOW_MS,
    read_complete,
    summarise,
)


def event(time_ms: int, step: int, host: str, **values: float) -> dict[str, Any]:
    named = {f"system/{host}/{name}": value for name, value in values.items()}
    return {"kind": "system", "time_ms": time_ms, "step": step, "values": named}


def append(folder: Path, host: str, *events: Mapping[str, Any]) -> None:
    with (folder / f"{host}.jsonl").open("a") as file:
        file.writelines(json.dumps(one) + "\n" for one in events)


def test_nodes_and_devices_of_a_window_become_mean_lowest_and_highest() -> None:
    found = summarise(
        [
            event(20_000, 4, "a", cpu_percent=10, gpu_0_power_w=300, gpu_1_power_w=500),
            event(29_999, 5, "b", cpu_percent=30, gpu_0_power_w=700),
            event(30_000, 6, "a", cpu_percent=50),
        ]
    )
    assert found == [
        ("system/mean/cpu_percent", 20, 30_000, 5),
        ("system/min/cpu_percent", 10, 30_000, 5),
        ("system/max/cpu_percent", 30, 30_000, 5),
        ("system/mean/gpu_power_w", 500, 30_000, 5),
        ("system/min/gpu_power_w", 300, 30_000, 5),
        ("system/max/gpu_power_w", 700, 30_000, 5),
        ("system/mean/cpu_percent", 50, 40_000, 6),
        ("system/min/cpu_percent", 50, 40_000, 6),
        ("system/max/cpu_percent", 50, 40_000, 6),
    ]


def test_the_number_of_metrics_does_not_grow_with_the_nodes() -> None:
    gpus = {f"gpu_{number}_power_w": 1.0 for number in range(8)}
    few, many = (
        summarise(event(0, 1, f"n{node}", cpu_percent=1, **gpus) for node in range(count))
        for count in (5, 500)
    )
    assert len(few) == len(many) == 6


def test_every_sample_is_read_once_when_its_window_is_complete(tmp_path: Path) -> None:
    now = 100 * MAX_READ_MS
    times = range(now - 2 * MAX_READ_MS - 10 * WINDOW_MS, now, WINDOW_MS)
    for host in "abcde":
        append(tmp_path, host, *(event(t, 1, host, cpu_percent=1) for t in times))
    chunks: list[list[int]] = []
    reached: dict[str, int] = {}
    for moment in (now, now, now + SETTLE_MS + WINDOW_MS):
        for events, after in read_complete(tmp_path, reached, moment):
            chunks.append([one["time_ms"] for one in events])
            reached = after
    assert sorted(time for chunk in chunks for time in chunk) == sorted([*times] * 5)
    assert len(chunks) == 4  # two of the longest, the rest, and what was not complete at first
    for before, later in itertools.pairwise(chunks):
        assert max(before) < min(later)


def test_a_node_that_joins_late_and_one_that_ends_are_summarised(tmp_path: Path) -> None:
    append(tmp_path, "a", event(0, 1, "a", cpu_percent=1), event(WINDOW_MS, 2, "a", cpu_percent=3))
    append(tmp_path, "b", event(WINDOW_MS + 1, 2, "b", cpu_percent=5))
    (tmp_path / "c.jsonl").write_text("")
    ((events, offsets),) = read_complete(tmp_path, {}, 100 * WINDOW_MS)
    means = [value for name, value, *_ in summarise(events) if "mean" in name]
    assert means == pytest.approx([1, 4])
    assert offsets == {host: (tmp_path / host).stat().st_size for host in ("a.jsonl", "b.jsonl")}
