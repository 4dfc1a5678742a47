"""Calls made one after another in a thread, so that the caller does not wait for a disk."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class InOrder:
    """Makes calls in the order in which they were given; the end of the process waits for them."""

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._pending: deque[Future[Any]] = deque()

    def call(self, function: Callable[..., object], *arguments: Any) -> None:
        """Has `function` called with `arguments`; raises what an earlier call raised."""
        while self._pending and self._pending[0].done():
            self._pending.popleft().result()
        self._pending.append(self._thread.submit(function, *arguments))

    def wait(self) -> None:
        """Returns when all calls are made; raises what the first failed one raised."""
        while self._pending:
            self._pending.popleft().result()
