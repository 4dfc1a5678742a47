"""What changed in a run's config since its last start, for the log and the plan."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from configs.differences import Difference, differences
from pipeline.run.config import RunConfig, TrainConfig
from pipeline.run.phases import PhaseConfig


def differences_of_runs(before: RunConfig, now: RunConfig) -> Iterator[Difference]:
    """The values that differ, by their keys.

    A later phase is left out where it only takes over the change of the phase before, and where
    there is none in one of the two: see `added_phases`.
    """
    if not isinstance(before, TrainConfig) or not isinstance(now, TrainConfig):
        yield from differences(before, now)
        return
    without = {"then": ()}
    yield from differences(before.model_copy(update=without), now.model_copy(update=without))
    for _, found in changed_later(before, now, list(PhaseConfig.model_fields)):
        yield found


def changed_later(
    before: TrainConfig, now: TrainConfig, keys: Sequence[str]
) -> Iterator[tuple[int, Difference]]:
    """(number of the phase, from 1, what differs) of the later phases that both runs have.

    Left out where a phase only takes over the change of the phase before.
    """
    pairs = list(zip(before.phases, now.phases, strict=False))
    for number, (earlier, pair) in enumerate(pairwise(pairs), 1):
        where = f"then.{number - 1}."
        taken_over = {_change(found, "") for found in _of_phases(*earlier, keys, "")}
        for found in _of_phases(*pair, keys, where):
            if _change(found, where) not in taken_over:
                yield number, found


def added_phases(before: RunConfig, now: RunConfig) -> Iterator[str]:
    """A line for each later phase that only one of two configs has."""
    if isinstance(before, TrainConfig) and isinstance(now, TrainConfig):
        for number in range(len(before.then), len(now.then)):
            yield f"then.{number}: a phase that was added"
        for number in range(len(now.then), len(before.then)):
            yield f"then.{number}: a phase that was removed"


def _of_phases(
    before: PhaseConfig, now: PhaseConfig, keys: Sequence[str], where: str
) -> Iterator[Difference]:
    for key in keys:
        marks = tuple(PhaseConfig.model_fields[key].metadata)
        yield from differences(getattr(before, key), getattr(now, key), f"{where}{key}", marks)


def _change(found: Difference, where: str) -> tuple[str, str, str]:
    return found.path.removeprefix(where), repr(found.before), repr(found.now)
