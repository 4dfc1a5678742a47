"""How the parts of a stage are put together to tasks of the scheduler, and what a task does.

The scheduler and its client take milliseconds for each task, so that the number of tasks must not
be that of the parts. A task has many parts where there are many; it does those that it can start in
a second or a few, and hands back the rest, which is divided again among the workers that there are
then. So no worker waits long for the task of another, whatever their parts take.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from configs.load import UserError

TASKS_PER_WORKER = 32
"""Open tasks of each worker at most."""
_MOST_TASKS, _LEAST_TASKS_PER_WORKER = 2048, 4
"""Beyond so many open tasks, each worker still gets a few."""
_LEAST_S, _S_PER_WORKER = 1.0, 0.02
"""Time of a task: then no more than 50 tasks end in a second, however many workers there are."""

Call = tuple[Any, ...]


def most_open_tasks(num_workers: int) -> int:
    """How many tasks are open at a time at most."""
    least = _LEAST_TASKS_PER_WORKER * num_workers
    return max(1, min(TASKS_PER_WORKER * num_workers, max(_MOST_TASKS, least)))


def task_seconds(num_workers: int) -> float:
    """How long a task starts further parts, seconds."""
    return max(_LEAST_S, _S_PER_WORKER * num_workers)


def divided(parts: range, num_workers: int, num_open_tasks: int = 0) -> list[range]:
    """The parts of each new task where so many tasks are open already: few tasks of about equal
    size, and yet several for each worker."""
    num_tasks = max(1, min(len(parts), most_open_tasks(num_workers) - num_open_tasks))
    bounds = [len(parts) * number // num_tasks for number in range(num_tasks + 1)]
    return [parts[start:end] for start, end in pairwise(bounds) if start < end]


@dataclass(frozen=True)
class Work:
    """What is done with each call of a run."""

    function: Callable[..., Any]
    result_on_disk: Callable[..., Any] | None = None
    """The result of a call that was finished before, by its record; None if it was not."""

    def result(self, shared: Sequence[Any], call: Call, name: str) -> Any:
        """The result of one call; an exception gets a note with its name, except for a UserError,
        whose message says where to look."""
        try:
            return self.function(*shared, *call)
        except UserError:
            raise
        except Exception as error:
            error.add_note(f"in {name}")
            raise

    def known_results(self, shared: Sequence[Any], calls: Sequence[Call]) -> list[Any]:
        """The results of the first calls, up to one that is not finished."""
        results: list[Any] = []
        if self.result_on_disk is not None:
            for call in calls:
                result = self.result_on_disk(*shared, *call)
                if result is None:
                    break
                results.append(result)
        return results


@dataclass(frozen=True)
class Task:
    """Calls that are done one after another."""

    work: Work
    calls: Sequence[Call]
    names: Sequence[str]
    """Of the calls."""
    seconds: float
    """How long it starts further calls, seconds."""

    def results(self, shared: Sequence[Any], may_continue: Callable[[], bool]) -> list[Any]:
        """The results of the first calls: of those that start in time and while `may_continue()`,
        of at least one.

        Calls are done in order. So the finished ones come first where a worker has died in this
        task before, and are not done again.
        """
        results = self.work.known_results(shared, self.calls)
        started_at = time.monotonic()
        for number in range(len(results), len(self.calls)):
            results.append(self.work.result(shared, self.calls[number], self.names[number]))
            if time.monotonic() - started_at > self.seconds or not may_continue():
                break
        return results

    def open_calls(self, shared: Sequence[Any]) -> str:
        """The first call that is not finished, as the subject of a sentence; all, where nothing
        tells which these are."""
        known = self.work.known_results(shared, self.calls)
        names = self.names[len(known) :] or self.names
        if len(names) == 1 or self.work.result_on_disk is not None:
            return f"{names[0]}: this part"
        return f"{names[0]} to {names[-1]}: one of these {len(names)} parts"
