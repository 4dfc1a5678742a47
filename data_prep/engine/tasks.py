"""How the parts of a stage are put together to tasks of the scheduler."""

from collections.abc import Callable, Sequence
from typing import Any

PARTS_PER_TASK = 32
"""Parts of a task at most: the scheduler and its client take about 5 ms for each task."""

_TASKS_PER_WORKER = 16
"""Tasks of each worker at least, where there are as many parts: workers then end at about the same
time."""


def tasks_of(num_parts: int, num_workers: int) -> list[slice]:
    """The parts of each task: few tasks, and yet several for each worker."""
    size = num_parts // max(1, num_workers * _TASKS_PER_WORKER)
    size = max(1, min(PARTS_PER_TASK, size))
    return [slice(at, min(at + size, num_parts)) for at in range(0, num_parts, size)]


def named(names: Sequence[str]) -> str:
    """The parts of a task with these names, as the subject of a sentence."""
    if len(names) == 1:
        return f"{names[0]}: this part"
    return f"{names[0]} to {names[-1]}: one of these {len(names)} parts"


def run_all(
    function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], *shared: Any
) -> list[Any]:
    """The results of ``function(*shared, *call)`` for all calls."""
    return [function(*shared, *call) for call in calls]
