"""What evaluations decide: early stopping, plateaus, the best so far."""

import json
import math
from typing import Any

import pytest

from configs.load import validate
from pipeline.validation.config import ValidationConfig
from pipeline.validation.state import ValidationState
from pipeline.validation.watch import ValidationWatch


def watch_of(num_phases: int = 1, **settings: Any) -> ValidationWatch:
    return ValidationWatch(validate(settings, ValidationConfig, "test"), None, num_phases)


def observed(watch: ValidationWatch, scores: list[float | None], first: int = 1) -> list[int]:
    """The steps, from `first`, after which `watch` stops."""
    stops = []
    for step, score in enumerate(scores, start=first):
        watch.observe(step, score, phase=0, measured_on="rows")
        if watch.stop:
            stops.append(step)
    return stops


def test_a_run_stops_after_so_many_evaluations_without_an_improvement() -> None:
    watch = watch_of(early_stopping={"patience": 2, "min_delta": 0.1})
    # 2.95 is lower than 3, but not by 0.1; 2.85 is, since the last improvement.
    assert observed(watch, [3.0, 2.95, 2.85, math.nan, None, 2.5]) == [5]
    assert watch.is_best(6)
    watch = watch_of(early_stopping={"patience": 2, "min_delta": 0.1})
    assert observed(watch, [3.0, 2.95, 2.91]) == [3]
    assert watch.stop is not None
    assert (watch.stop.best_step, watch.stop.best_score) == (3, 2.91)
    tags = {"stopped_early": "step 3", "best_step": "3", "best_score": "2.91"}
    assert watch.end_tags(3, is_early=True) == tags
    assert "step 3: held-out loss 2.9100" in str(watch.stop)
    none = watch_of(early_stopping={"patience": 1})
    assert observed(none, [math.inf]) == [1]
    assert none.stop is not None
    assert none.end_tags(1, is_early=False) == {"stopped_early": "no"}


def test_without_settings_nothing_is_decided_but_the_best_is_known() -> None:
    watch = watch_of()
    assert observed(watch, [3.0, 4.0, 5.0, 2.0, 2.0]) == []
    assert watch.is_best(4)
    assert watch.learning_rate(0.25, 0) == 0.25


def test_a_plateau_reduces_the_learning_rate_not_below_its_minimum() -> None:
    watch = watch_of(plateau={"patience": 2, "factor": 0.5, "cooldown": 1, "min_lr": 0.2})
    rates = []
    for step, score in enumerate([3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 2.0, 2.0, 2.0], start=1):
        watch.observe(step, score, 0, "rows")
        rates.append(watch.learning_rate(1.0, 0))
    # Evaluations 2 and 3 reduce, 4 is in the cooldown, 5 and 6 reduce, 7 improves.
    assert rates == [1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.2]
    assert watch.learning_rate(0.1, 0) == 0.1  # the schedule itself may be lower


def test_another_phase_or_other_rows_start_the_waiting_again() -> None:
    watch = watch_of(
        num_phases=2, early_stopping={"patience": 1}, plateau={"patience": 1, "factor": 0.5}
    )
    observed(watch, [3.0, 3.0])
    assert watch.stop is None  # not the last phase
    assert watch.learning_rate(1.0, 0) == 0.5
    assert watch.learning_rate(1.0, 1) == 1.0
    watch.observe(3, 9.0, 1, "longer rows")
    assert watch.is_best(3)
    watch.observe(4, 9.5, 1, "other rows")
    assert watch.stop is None
    assert watch.is_best(4)
    watch.observe(5, 9.5, 1, "other rows")
    assert watch.stop is not None
    assert watch.learning_rate(1.0, 1) == 0.5
    watch.observe(6, 9.5, 1, "again other rows")
    assert watch.learning_rate(1.0, 1) == 0.5  # what was reduced stays so within the phase


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_watch_that_resumes_decides_the_same(cut: int) -> None:
    settings: dict[str, Any] = {
        "early_stopping": {"patience": 4, "min_delta": 0.05},
        "plateau": {"patience": 2, "factor": 0.7, "cooldown": 1},
    }
    scores: list[float | None] = [3.1, 3.0, 3.05, 2.97, 3.3, None, 2.6, 2.61, 2.59, 2.6, 2.7, 2.6]
    whole, first = watch_of(**settings), watch_of(**settings)
    stops = observed(whole, scores)
    assert stops == [6, 11, 12]
    observed(first, scores[:cut])
    assert first.state is not None
    stored = json.loads(json.dumps(first.state.model_dump(mode="json")))
    config = validate(settings, ValidationConfig, "test")
    second = ValidationWatch(config, ValidationState.model_validate(stored))
    assert bool(second.stop) == (cut in stops)
    assert observed(second, scores[cut:], cut + 1) == [step for step in stops if step > cut]
    assert second.state == whole.state
    assert second.learning_rate(0.3, 0) == whole.learning_rate(0.3, 0)
