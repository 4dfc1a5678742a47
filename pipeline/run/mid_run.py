"""Which settings of a run may change between its starts: a function of how far the run has come.

A key is of one of three kinds:
- part of the identity (`RunConfig.identity`): it never changes;
- it decides which rows a step takes (`STREAM_KEYS` of each phase), or it is the model or the
  objective of a later phase: it may change as long as the steps that were taken stay the same, so
  in later phases, or at the end of the present one;
- any other may change at every start.

The length of the present phase decides also about the learning rates of a schedule that ends with
it, and about a mask rate that changes over it: then it may not change.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from configs.differences import differences
from configs.load import UserError
from model.options import PerPhase
from pipeline.checkpoint.manifest import list_checkpoints, read_manifest
from pipeline.data.position import PhaseSteps, StepSegment
from pipeline.run.changes import changed_later
from pipeline.run.config import RunConfig, TrainConfig
from pipeline.run.phase_length import rates_of_steps_taken
from pipeline.run.phases import PhaseConfig

STREAM_KEYS = ("total_rows", "batch.global_rows", "batch.warmup", "data.shuffle_unit")
"""Keys of a phase that decide which rows its steps take."""


def forbidden_changes(before: RunConfig, now: RunConfig, consumed_rows: int) -> list[str]:
    """A line for each difference between two configs of a run at position `consumed_rows`.

    Only for those that make it a different run, or that would skip or repeat rows.
    """
    lines = [str(found) for found in differences(before.identity(), now.identity())]
    if isinstance(before, TrainConfig) and isinstance(now, TrainConfig):
        lines += _phase_changes(before, now, consumed_rows)
    elif now.end_row < consumed_rows:
        lines += [
            f"{found} (the newest checkpoint is after {consumed_rows:,} rows, {now.end_row:,} are "
            "asked for)"
            for found in differences(before, now)
            if found.path == "steps"
        ]
    return lines


def changes_for_a_phase(before: RunConfig, now: RunConfig, consumed_rows: int) -> list[str]:
    """The keys that differ in a phase that has started, but that a later phase may change.

    Whoever changes them in a run probably looks for a phase.
    """
    if not isinstance(before, TrainConfig) or not isinstance(now, TrainConfig):
        return []
    found: dict[str, None] = {}
    for (_, old, start_row), new in zip(_phases(before), now.phases, strict=False):
        if not _is_started(start_row, consumed_rows):
            break
        if "replaced_tokens" not in (old.objective.type, new.objective.type):
            found |= {key: None for key in ("objective", "adversarial") if _differ(old, new, key)}
        if old.batch.global_rows != new.batch.global_rows:
            found["batch.global_rows"] = None
        of_model = differences(old.model, new.model, "model")
        found |= {one.path: None for one in of_model if one.has_mark(PerPhase)}
    return list(found)


def changed_data(
    before: RunConfig, fingerprint_before: str, fingerprint: str, consumed_rows: int
) -> list[str]:
    """A line if rows that the run has started to read are different now.

    The fingerprints are those of the plans, which join those of the phases.
    """
    if not isinstance(before, TrainConfig):
        if fingerprint_before == fingerprint:
            return []
        return ["the data is different: the fingerprint of its files or of its tokenizer changed"]
    pairs = list(zip(fingerprint_before.split("+"), fingerprint.split("+"), strict=False))
    return [
        f"the rows are different: the fingerprint of the data set changed ({where}data.path)"
        for (where, _, start_row), (old, new) in zip(_phases(before), pairs, strict=False)
        if old != new and _is_started(start_row, consumed_rows)
    ]


def newest_position(checkpoints: Path) -> int:
    """Up to where the newest readable checkpoint in a folder decides the rows; 0 without one.

    That is its position or, where the run will skip rows after it, the end of these rows.
    """
    for path in reversed(list_checkpoints(checkpoints)):
        try:
            manifest = read_manifest(path)
        except UserError:
            continue  # a damaged one, which the start of a run reports
        return max(manifest.consumed_rows, *(window.end_row for window in manifest.skipped), 0)
    return 0


def _phases(config: TrainConfig) -> Iterator[tuple[str, PhaseConfig, int]]:
    """Of each phase the dotted path before its keys, its config, and its first position."""
    start_row = 0
    for number, phase in enumerate(config.phases):
        yield (f"then.{number - 1}." if number else "", phase, start_row)
        start_row += phase.steps.total_rows


def _is_started(start_row: int, consumed_rows: int) -> bool:
    """Whether the phase that starts at `start_row` has started; the first one is the run itself."""
    return start_row == 0 or start_row < consumed_rows


def _phase_changes(before: TrainConfig, now: TrainConfig, consumed_rows: int) -> Iterator[str]:
    for number, (where, old, start_row) in enumerate(_phases(before)):
        if not _is_started(start_row, consumed_rows):
            return
        if number >= len(now.phases):
            yield (
                f"then.{number - 1}: this phase is missing now, but the run is at row "
                f"{consumed_rows - start_row:,} of it"
            )
            return
        new = now.phases[number]
        taken = consumed_rows - start_row
        rows = min(taken, old.steps.total_rows)
        if number and old.data.shuffle_unit != new.data.shuffle_unit:
            yield from _changed_keys(where, old, new, ["data.shuffle_unit"], rows)
        yield from (
            f"{found} (after {rows:,} rows of this phase)"
            for phase, found in changed_later(before, now, ["model", "objective", "adversarial"])
            if phase == number
        )
        if not _steps_agree(old.steps, new.steps, taken):
            keys = [key for key in STREAM_KEYS if key != "data.shuffle_unit"]
            if number == 0:  # named as part of the identity
                keys.remove("batch.global_rows")
            yield from _changed_keys(where, old, new, keys, rows)
        else:
            yield from rates_of_steps_taken(where, old, new, rows)


def _changed_keys(
    where: str, old: PhaseConfig, new: PhaseConfig, keys: Sequence[str], rows: int
) -> Iterator[str]:
    for key in keys:
        for found in differences(_value(old, key), _value(new, key), f"{where}{key}"):
            yield f"{found} (after {rows:,} rows of this phase: rows would be skipped or repeated)"


def _differ(old: PhaseConfig, new: PhaseConfig, key: str) -> bool:
    return bool(getattr(old, key) != getattr(new, key))


def _value(phase: PhaseConfig, key: str) -> Any:
    value: Any = phase
    for part in key.split("."):
        value = getattr(value, part)
    return value


def _steps_agree(old: PhaseSteps, new: PhaseSteps, taken_rows: int) -> bool:
    """Whether the steps on the first `taken_rows` rows are the same, and the next step follows.

    More rows than the old phase has: the run is in a later phase, and this one keeps its length.
    """
    if taken_rows > old.total_rows:
        return _segments(old, old.total_rows) == _segments(new, new.total_rows)
    return taken_rows <= new.total_rows and _segments(old, taken_rows) == _segments(new, taken_rows)


def _segments(steps: PhaseSteps, end_row: int) -> list[StepSegment]:
    """The segments up to `end_row`, neighbours with steps of equal size as one."""
    cut = [
        StepSegment(start, min(end, end_row), size)
        for start, end, size in steps.segments
        if start < end_row
    ]
    starts = [0, *(n for n, (a, b) in enumerate(pairwise(cut), 1) if a.step_rows != b.step_rows)]
    ends = [*starts[1:], len(cut)]
    return [
        StepSegment(cut[first].start_row, cut[last - 1].end_row, cut[first].step_rows)
        for first, last in zip(starts, ends, strict=True)
        if cut
    ]
