"""What each stage cost: processor time, files, bytes read and written, memory, comparisons."""

from collections.abc import Iterator, Mapping
from typing import Any

from configs.pages.table import table
from data_prep.engine.stage import StageResult

COLUMNS = {
    "parts": "parts",
    "cpu_ms": "CPU s",
    "opens": "files opened",
    "bytes_read": "MB read",
    "bytes_written": "MB written",
    "peak_bytes": "peak MB of a worker",
    "comparisons": "comparisons",
}
"""The costs of a stage, and their names in the table."""


def stage_costs(results: Mapping[str, StageResult[Any]]) -> dict[str, dict[str, int]]:
    """The costs of each stage, over all its parts; of memory, the most of a part.

    Parts that an older version ran count nothing.
    """
    costs = {}
    for name, result in results.items():
        found = [record.get("costs", {}) for record in result.records]
        sums = {
            key: sum(part.get(key, 0) for part in found)
            for key in ("cpu_ms", "opens", "bytes_read", "bytes_written")
        }
        costs[name] = {
            "parts": len(found),
            **sums,
            "peak_bytes": max((part.get("peak_bytes", 0) for part in found), default=0),
            "comparisons": sum(record.get("candidates", 0) for record in result.records),
        }
    return costs


def costs_section(costs: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """The section of the page."""
    yield "<h2>What the stages cost</h2>"
    rows = [[name, *(_cell(key, value[key]) for key in COLUMNS)] for name, value in costs.items()]
    yield table(["stage", *COLUMNS.values()], rows)


def _cell(key: str, value: int) -> str:
    if "bytes" in key:
        return f"{value / 1e6:,.1f}"
    return f"{value / 1000:,.1f}" if key == "cpu_ms" else f"{value:,}"
