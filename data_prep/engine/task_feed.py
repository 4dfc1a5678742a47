"""The calls of a run as tasks of a Dask client."""

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from uuid import uuid4

from data_prep.engine.tasks import Call, Task, Work, divided, task_seconds

_COUNTED_AFTER_S = 1.0
"""How long the number of workers is taken to be the same."""


class TaskFeed:
    """Submits the calls of one run, and again what tasks hand back of them."""

    def __init__(
        self,
        client: Any,
        work: Work,
        calls: Sequence[Call],
        names: Sequence[str],
        shared: Sequence[Any],
    ) -> None:
        self._client, self._work = client, work
        self._calls, self._names, self._shared = calls, names, shared
        self._open: dict[str, tuple[Any, Task, range]] = {}
        """The future, the task and its calls, by the key of the task."""
        self._num_workers, self._counted_at = 0, 0.0
        # Tasks of their own: workers get the results once each, and again if they are restarted.
        self._sent = [self._future("shared", _same, value) for value in shared]

    def results(self) -> Iterator[Any]:
        """The results of all calls, as they come in; raises the first error.

        Raises CommClosedError if the scheduler does not answer any more.
        """
        from distributed import as_completed

        futures = self._submit(range(len(self._calls)))
        completed = as_completed(futures, loop=self._client.loop)
        for future in completed:
            results = future.result()
            _, _, numbers = self._open.pop(future.key)
            future.release()
            completed.update(self._submit(numbers[len(results) :]))
            yield from results

    def cancel(self) -> None:
        """Gives up what is still open. A task that a worker does ends with the call it is at."""
        self._client.cancel([*(future for future, _, _ in self._open.values()), *self._sent])

    def open_calls(self, key: str) -> str:
        """What an open task was at, as the subject of a sentence."""
        if key not in self._open:  # what is sent once
            return key
        _, task, _ = self._open[key]
        return task.open_calls(self._shared)

    def _submit(self, numbers: range) -> list[Any]:
        """The futures of new tasks for the calls of these numbers."""
        if not numbers:
            return []
        num_workers = self._workers()
        futures = []
        for own in divided(numbers, num_workers, num_open_tasks=len(self._open)):
            calls, names = self._calls[own.start : own.stop], self._names[own.start : own.stop]
            task = Task(self._work, calls, names, task_seconds(num_workers))
            future = self._future(names[0], _results_of, task, self._sent)
            self._open[future.key] = (future, task, own)
            futures.append(future)
        return futures

    def _future(self, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """That of a new task of Dask, whose pages show the name."""
        key = f"{name}-{uuid4().hex}"  # never used twice: its first result might be kept
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sending large graph")
            return self._client.submit(function, *arguments, key=key)

    def _workers(self) -> int:
        """The number of workers; on a cluster, it grows while a run starts."""
        from distributed.comm.core import CommClosedError

        if not self._counted_at or time.monotonic() - self._counted_at > _COUNTED_AFTER_S:
            try:
                self._num_workers = len(self._client.nthreads())
            except OSError as error:
                raise CommClosedError(str(error)) from error
            self._counted_at = time.monotonic()
        return self._num_workers


def _results_of(task: Task, shared: Sequence[Any]) -> list[Any]:
    return task.results(shared, _may_continue)


def _may_continue() -> bool:
    """Whether this worker has memory for a further call, and a client waits for its task."""
    from distributed import Status, get_worker

    worker = get_worker()
    task = worker.state.tasks.get(worker.get_current_task())
    return worker.status == Status.running and task is not None and task.state == "executing"


def _same(value: Any) -> Any:
    return value
