"""How a run scales: its hours on more and more accelerators, and how many of them are useful."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pipeline.planning.search import Outcome, Searched, fastest, search

MAX_ACCELERATORS = 1 << 17
STOP_FACTOR = 4.0
"""No more accelerators are tried once a run takes so many times the fewest accelerator hours."""
USEFUL_FACTOR = 2.0
"""Accelerators are useful while a run takes at most so many times the fewest accelerator hours:
half of what they cost is then lost."""


@dataclass(frozen=True)
class ScalePoint:
    """The fastest layout on a number of accelerators."""

    num_nodes: int
    gpus_per_node: int
    outcome: Outcome

    @property
    def world_size(self) -> int:
        """Accelerators."""
        return self.num_nodes * self.gpus_per_node

    @property
    def hours(self) -> float:
        """Of the whole run."""
        return self.outcome.time.total / 3600

    @property
    def accelerator_hours(self) -> float:
        """Hours times accelerators."""
        return self.hours * self.world_size


def scale(
    run_on: Callable[[int, int], Searched], node_size: int, memory_gb: float
) -> list[ScalePoint]:
    """The fastest layout on every doubled number of accelerators that a layout fits on.

    `run_on` gives the run on (nodes, accelerators of each); a full node has `node_size`.
    """
    points: list[ScalePoint] = []
    for num_nodes, gpus in _launches(node_size):
        found = fastest(search(run_on(num_nodes, gpus), memory_gb))
        if found is None:
            if points:
                break
            continue
        points.append(ScalePoint(num_nodes, gpus, found))
        fewest = min(point.accelerator_hours for point in points)
        if points[-1].accelerator_hours > STOP_FACTOR * fewest:
            break
    return points


def largest_useful(points: list[ScalePoint]) -> ScalePoint | None:
    """The most accelerators at which not more than half of them is lost; None: nothing fits."""
    if not points:
        return None
    limit = USEFUL_FACTOR * min(point.accelerator_hours for point in points)
    fastest_so_far = [
        point
        for number, point in enumerate(points)
        if all(point.hours < before.hours for before in points[:number])
    ]
    return [point for point in fastest_so_far if point.accelerator_hours <= limit][-1]


def _launches(node_size: int) -> Iterator[tuple[int, int]]:
    gpus = 1
    while gpus < node_size:
        yield 1, gpus
        gpus *= 2
    num_nodes = 1
    while num_nodes * node_size <= MAX_ACCELERATORS:
        yield num_nodes, node_size
        num_nodes *= 2
