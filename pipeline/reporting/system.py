"""What the nodes of a run sampled of their processors, all nodes and accelerators together."""

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.reporting.curve import Curve
from pipeline.tracking.event_log import is_event
from pipeline.tracking.json_lines import read_objects

SYSTEM_FOLDER = "system"
SHOWN = {
    "cpu_percent": "processors busy, %",
    "memory_used_percent": "memory used, %",
    "gpu_utilization_percent": "accelerators busy, %",
    "gpu_memory_mb": "accelerator memory used, MB",
    "gpu_power_w": "accelerator power, W",
    "gpu_temperature_c": "accelerator temperature, °C",
}
"""The metrics that are read, and their titles; an accelerator's number is left out."""
_CHUNK_SAMPLES = 4096


def read_system(folder: Path) -> tuple[list[str], dict[str, Curve], list[str]]:
    """The hosts, a curve for each metric of `SHOWN` that they sampled, and what was not readable.

    A bucket of a curve has the mean, least and greatest value of all hosts and accelerators.
    """
    hosts, problems = [], []
    curves: dict[str, Curve] = defaultdict(Curve)
    for path in sorted((folder / SYSTEM_FOLDER).glob("*.jsonl")):
        hosts.append(path.stem)
        chunk: list[dict[str, Any]] = []
        try:
            for event, _ in read_objects(path, is_valid=is_event):
                if event["kind"] == "system" and 0 <= event["step"] < 1 << 53:
                    chunk.append(event)
                if len(chunk) == _CHUNK_SAMPLES:
                    _add(curves, chunk)
                    chunk = []
        except OSError as error:
            problems.append(f"{SYSTEM_FOLDER}/{path.name} cannot be read ({error})")
        _add(curves, chunk)
    return hosts, {name: curves[name] for name in SHOWN if name in curves}, problems


def _add(curves: dict[str, Curve], samples: list[dict[str, Any]]) -> None:
    found: dict[str, tuple[list[int], list[float]]] = defaultdict(lambda: ([], []))
    for event in samples:
        for full_name, value in event.get("values", {}).items():
            name = re.sub(r"^gpu_\d+_", "gpu_", full_name.rpartition("/")[2])
            if name in SHOWN and abs(value) < 1e300:
                found[name][0].append(event["step"])
                found[name][1].append(float(value))
    for name, (steps, values) in found.items():
        curves[name].add(np.array(steps, dtype=np.int64), np.array(values))
