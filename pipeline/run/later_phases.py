"""What a later phase takes over from the phase before, and what it may change.

A run's config names in `then` only what changes. `complete_phases` fills in the rest, so that the
validated config holds every phase whole.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from pydantic import ValidationError

from configs.differences import Difference, differences
from configs.load import UserError, merged
from model.compute import ComputeConfig
from model.grid_check import compute_errors
from model.phase_settings import fixed_differences
from pipeline.data.config import DataConfig
from pipeline.run.phases import LaterPhaseConfig, PhaseConfig

SETTINGS = (
    "model",
    "objective",
    "adversarial",
    "optimizer",
    "gradient_clipping",
    "schedule",
    "batch",
)
"""What a phase takes over from the phase before, besides its data."""
SHARES = ("weights", "sampling_exponent")
"""The keys of `data` that decide the shares of its sources, of which one is given."""
OF_THE_MACHINE = ("cache_gb", "verify", "workers", "prefetch_steps")
"""Settings of `data` that do not depend on the data set."""


def complete_phases(tree: Mapping[str, Any]) -> list[Any]:
    """The phases in ``then`` of a run's config `tree`, each with all of its keys.

    A phase that follows one with errors is left out: its errors cannot be known before those are
    corrected.
    """
    first = {key: value for key, value in tree.items() if key in PhaseConfig.model_fields}
    complete: list[Any] = []
    try:
        before = PhaseConfig.model_validate(first)
        for given in tree["then"]:
            is_tree = isinstance(given, Mapping)
            complete.append(_complete(before, given) if is_tree else given)
            before = LaterPhaseConfig.model_validate(complete[-1])
    except ValidationError:
        pass  # reported when the whole config is validated
    return complete


def _complete(before: PhaseConfig, given: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(given)
    for key in SETTINGS:
        kept = getattr(before, key)
        if key in ("schedule", "batch"):
            kept = kept.repeated()
        result[key] = _inherited(kept, given.get(key))
    result["data"] = _data(before.data, given.get("data"))
    return result


def _data(kept: DataConfig, given: Any) -> Any:
    if not isinstance(given, Mapping):
        return _inherited(kept, given)
    if given.get("path") or given.get("url"):  # a data set of its own
        return {**kept.model_dump(mode="json", include=set(OF_THE_MACHINE)), **given}
    if not given.keys().isdisjoint(SHARES):
        kept = kept.model_copy(update=dict.fromkeys(SHARES))
    return _inherited(kept, given)


def _inherited(kept: Any, given: Any) -> Any:
    if given is None:
        return kept
    if not isinstance(given, Mapping) or not hasattr(kept, "model_dump"):
        return given
    tree: dict[str, Any] = kept.model_dump(mode="json")
    if given.get("type", tree.get("type")) != tree.get("type"):
        return given
    return merged(tree, given)


def phase_errors(phases: Sequence[PhaseConfig], compute: ComputeConfig) -> Iterator[str]:
    """A line for each setting of a later phase that cannot change in mid-run, by its key."""
    for number, (before, now) in enumerate(pairwise(phases)):
        where = f"then.{number}"
        for found in fixed_differences(before.model, now.model):
            yield (
                f"{where}.model.{found.path}: {found.now!r}, but {found.before!r} in the phase "
                "before: a phase cannot change it, since the weights or what they compute depend "
                "on it"
            )
        if before.optimizer.type != now.optimizer.type:
            yield (
                f"{where}.optimizer.type: {now.optimizer.type!r}, but {before.optimizer.type!r} in "
                "the phase before: a phase cannot change it, since the moments belong to it"
            )
        for error in compute_errors(now.model, compute):
            yield f"{where}: {error}"


@contextmanager
def named_by_phase(where: str) -> Iterator[None]:
    """Adds the dotted path `where` of a later phase to what a UserError says of its data."""
    try:
        yield
    except UserError as error:
        if not where:
            raise
        is_named = str(error).startswith("data.")
        raise type(error)(f"{where}{error}" if is_named else f"{where}data: {error}") from None


def phase_changes(before: PhaseConfig, now: PhaseConfig) -> list[Difference]:
    """What a phase changes of the phase before, its length left out."""
    return [
        found
        for key in (*SETTINGS, "data")
        for found in differences(getattr(before, key), getattr(now, key), key)
    ]


def changes_by_phase(phases: Sequence[PhaseConfig]) -> list[dict[str, Any]]:
    """Of each later phase its length and, by dotted key, the values that it changes."""
    return [
        {"total_rows": now.total_rows, **{d.path: d.now for d in phase_changes(before, now)}}
        for before, now in pairwise(phases)
    ]


def changes_in_words(before: PhaseConfig, now: PhaseConfig) -> str:
    """What a phase changes, in one line; without its rows and batch, which the plan shows, and
    without warm-ups that end with the phase before."""
    shown = ("data.path", "batch.global_rows", "batch.micro_rows")
    of_schedule = ("schedule.warmup_rows", "schedule.warmup_share", "schedule.total_rows")
    of_one_phase = (*of_schedule, "batch.warmup")
    return in_words(
        found
        for found in phase_changes(before, now)
        if found.path not in shown and (found.now or found.path not in of_one_phase)
    )


def in_words(changes: Iterable[Difference]) -> str:
    """Changed settings in one line."""
    return ", ".join(
        f"{found.path} {'' if found.before is None else f'{found.before} -> '}{found.now}"
        for found in changes
    )
