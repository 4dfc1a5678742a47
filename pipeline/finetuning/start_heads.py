"""Task heads that a run takes from the fine-tuned run that it starts from (MNLI, then RTE).

Taken are the output layer, row by row of its labels, and the layers before it; with them the
pooler. Imports no torch.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from configs.load import ConfigError
from pipeline.finetuning.config import FinetuneConfig, FromFinetunedRun, SourceHead
from pipeline.finetuning.tasks.task import LabelledTask, TaskConfig
from pipeline.start.start import Start


@dataclass(frozen=True)
class TakenHead:
    """Where the weights of a task's head come from."""

    task: str
    """The task of the run that is started from."""
    rows: tuple[int | None, ...] | None = None
    """For each label, the number of its label there, None: at random. None: all in their order."""
    labels: tuple[str, ...] = ()
    """Labels whose rows start at random."""


def find_heads(config: FinetuneConfig, start: Start) -> dict[str, TakenHead]:
    """By task, the head that it takes from `start`: those of ``start.heads``, and those of tasks
    with the same name, type and labels.

    Raises ConfigError, with all errors, for heads that are not there or do not fit.
    """
    given = config.start.heads if isinstance(config.start, FromFinetunedRun) else {}
    there = tasks_of(start)
    errors = [f"start.heads.{name}: not one of the tasks" for name in given.keys() - config.tasks]
    found = {}
    for name, task in config.tasks.items():
        if name in given:
            wanted = given[name]
            if wanted is None:
                continue
            try:
                found[name] = _taken(task, SourceHead.of(wanted), there)
            except ValueError as error:
                errors.append(f"start.heads.{name}: {error}")
        elif name in there and _is_same(task, there[name]):
            found[name] = _taken(task, SourceHead(task=name), there)
    if errors:
        raise ConfigError("\n".join(sorted(errors)))
    return found


def tasks_of(start: Start) -> Mapping[str, Any]:
    """The tasks that the weights of `start` were fine-tuned on, as its checkpoint records them."""
    if start.checkpoint is None:
        return {}
    tasks: Mapping[str, Any] = start.checkpoint.manifest.config.get("tasks", {})
    return tasks


def head_lines(
    config: FinetuneConfig, start: Start, taken: Mapping[str, TakenHead]
) -> Iterator[str]:
    """What is taken and what starts at random, a line for each task; none for other starts."""
    there = tasks_of(start)
    for name in config.tasks if there else ():
        head = taken.get(name)
        if head is None:
            yield f"  {name}: its head starts at random (the start has {', '.join(there)})"
        else:
            rest = f", but for {', '.join(head.labels)}, at random" if head.labels else ""
            yield f"  {name}: its head starts from that of {head.task}{rest}"


def _is_same(task: TaskConfig, other: Mapping[str, Any]) -> bool:
    if task.type != other.get("type"):  # type: ignore[attr-defined]
        return False
    labels = task.labels if isinstance(task, LabelledTask) else ()
    return set(labels) == set(other.get("labels", ()))


def _taken(task: TaskConfig, source: SourceHead, there: Mapping[str, Any]) -> TakenHead:
    """Raises ValueError for a task that is not there, or whose head does not fit."""
    if source.task not in there:
        known = ", ".join(there) or "none: the start is no fine-tuned run"
        raise ValueError(f"the start has no task {source.task}; its tasks: {known}")
    other = there[source.task]
    kind: str = task.type  # type: ignore[attr-defined]
    if other["type"] != kind:
        raise ValueError(f"{source.task} is {other['type']}, the task here {kind}")
    if not isinstance(task, LabelledTask):
        if source.labels:
            raise ValueError(f"labels: a {kind} has none")
        return TakenHead(source.task)
    labels = list(other["labels"])
    unknown = [label for label in source.labels if label not in task.labels]
    absent = [label for label in source.labels.values() if label not in labels]
    if unknown or absent:
        wrong = ", ".join([*unknown, *absent])
        raise ValueError(
            f"labels: {wrong}: not known; here are {', '.join(task.labels)}, in {source.task} "
            f"{', '.join(labels)}"
        )
    names = [source.labels.get(label, label) for label in task.labels]
    rows = tuple(labels.index(name) if name in labels else None for name in names)
    if all(row is None for row in rows):
        raise ValueError(
            f"no label is one of {source.task}'s: give labels: {{{task.labels[0]}: {labels[0]}, "
            "...}, or null for a head that starts at random"
        )
    at_random = tuple(label for label, row in zip(task.labels, rows, strict=True) if row is None)
    return TakenHead(source.task, rows, at_random)
