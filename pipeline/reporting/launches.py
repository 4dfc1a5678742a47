"""The launches of a run: when each started, from which step, what changed, and how it ended."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

UNKNOWN_END = "no end recorded"
ROLLED_BACK = "rolled back"


@dataclass(frozen=True)
class Changed:
    """A parameter that differs from the launch before; None: it was not there."""

    key: str
    before: Any
    now: Any


@dataclass(frozen=True)
class Rollback:
    """A rollback, as training recorded it."""

    time_ms: int
    reason: str
    start_row: int
    end_row: int
    """Rows from `start_row` to before it are skipped from here on."""


@dataclass
class Launch:
    """What one ``start`` event began; a rollback begins one too."""

    started_ms: int
    resumed_from: int
    host: str
    grid: str
    job: str
    changes: list[Changed] = field(default_factory=list)
    removed_to: int | None = None
    """Greatest step that was recorded before and is computed again; None: not recorded."""
    rollback: Rollback | None = None
    """What it follows, where that is recorded."""
    last_step: int | None = None
    """Of those that no later launch repeats; None: there is none."""
    last_ms: int = 0
    """When it recorded something for the last time."""
    state: str = UNKNOWN_END
    ended_ms: int | None = None
    end_tags: dict[str, str] = field(default_factory=dict)

    @property
    def until_ms(self) -> int:
        """Its end, as far as it is known."""
        return self.ended_ms or max(self.last_ms, self.started_ms)

    @property
    def num_repeated_steps(self) -> int:
        """Steps of earlier launches that it computes again, where that is recorded."""
        return 0 if self.removed_to is None else max(0, self.removed_to - self.resumed_from)


class Launches:
    """The launches in the order of their events, and the parameters of the last one."""

    def __init__(self) -> None:
        self.all: list[Launch] = []
        self.parameters: dict[str, Any] = {}
        self.datasets: list[Mapping[str, Any]] = []
        self._rollback: Rollback | None = None

    def note(self, event: Mapping[str, Any]) -> None:
        """Takes an event other than metrics."""
        if event["kind"] == "start":
            self._start(event)
        elif event["kind"] == "rollback":
            self._rollback = Rollback(
                time_ms=event["time_ms"],
                reason=str(event.get("reason", "")),
                start_row=_count(event, "start_row"),
                end_row=_count(event, "end_row"),
            )
            if self.all and self.all[-1].ended_ms is None:
                self.all[-1].state = ROLLED_BACK
                self.all[-1].ended_ms = event["time_ms"]
        elif event["kind"] == "end" and self.all:
            launch = self.all[-1]
            tags = {str(key): str(value) for key, value in event.get("tags", {}).items()}
            launch.ended_ms = launch.ended_ms or event["time_ms"]
            launch.state = tags.pop("state", launch.state)
            launch.end_tags |= tags

    def metrics(self, step: int, time_ms: int) -> None:
        """Takes note that a step was recorded."""
        if self.all:
            self.all[-1].last_step = step
            self.all[-1].last_ms = time_ms

    def _start(self, event: Mapping[str, Any]) -> None:
        parameters, tags = event.get("params", {}), event.get("tags", {})
        changes = []
        if self.all:
            changes = [
                Changed(key, self.parameters.get(key), parameters.get(key))
                for key in dict.fromkeys([*self.parameters, *parameters])
                if self.parameters.get(key) != parameters.get(key)
            ]
        removed = event.get("removed_to")
        launch = Launch(
            started_ms=event["time_ms"],
            resumed_from=event.get("resumed_from", 0),
            host=str(tags.get("slurm.job_nodelist") or tags.get("host", "")),
            grid=_grid(parameters),
            job=str(tags.get("slurm.job_id", "")),
            changes=changes,
            removed_to=removed if isinstance(removed, int) else None,
            rollback=self._rollback,
        )
        self._rollback = None
        self.all.append(launch)
        self.parameters = dict(parameters)
        self.datasets = [found for found in event.get("datasets", []) if isinstance(found, dict)]


def _grid(parameters: Mapping[str, Any]) -> str:
    """Tensor x data parallel ranks and ZeRO stage."""
    tp, dp = parameters.get("grid.tp_size"), parameters.get("grid.dp_size")
    zero = parameters.get("parallel.zero_stage")
    grid = "" if tp is None or dp is None else f"{tp} x {dp}"
    return grid if zero is None else f"{grid}, ZeRO {zero}".removeprefix(", ")


def _count(event: Mapping[str, Any], key: str) -> int:
    value = event.get(key)
    return value if isinstance(value, int) else 0
