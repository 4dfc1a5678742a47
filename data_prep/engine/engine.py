"""What runs the parts of a stage, and the engine that needs no workers."""

from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Protocol, Self

from configs.load import UserError
from data_prep.engine.tasks import Work


class WorkersKilled(UserError):
    """A part ended its worker process as often as it was tried, usually for lack of memory."""


class PartRunner(Protocol):
    """Runs calls somewhere, in any order."""

    def run(
        self,
        function: Callable[..., Any],
        calls: Sequence[tuple[Any, ...]],
        names: Sequence[str],
        shared: Sequence[Any] = (),
        part_bytes: int = 0,
        result_on_disk: Callable[..., Any] | None = None,
    ) -> Iterator[Any]:
        """The results of ``function(*shared, *call)`` for all calls, as they come in; `names` of
        the calls are for people. Each process receives `shared` once, and may use `part_bytes` of
        memory where that is more than its usual limit.

        A call whose process died is done again, unless ``result_on_disk(*shared, *call)`` gives
        its result; None means that it is not finished. An exception of a call ends the run, with
        the name of the call in its notes, unless it is a UserError."""


class Engine(PartRunner, Protocol):
    """Where parts are run. Use it in a ``with`` block."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


class SerialEngine:
    """Runs the calls in this process."""

    def run(
        self,
        function: Callable[..., Any],
        calls: Sequence[tuple[Any, ...]],
        names: Sequence[str],
        shared: Sequence[Any] = (),
        part_bytes: int = 0,
        result_on_disk: Callable[..., Any] | None = None,
    ) -> Iterator[Any]:
        """The results, in the order of the calls; nothing limits their memory."""
        for call, name in zip(calls, names, strict=True):
            yield Work(function).result(shared, call, name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass
