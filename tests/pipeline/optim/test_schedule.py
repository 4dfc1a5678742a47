"""Learning rates, to the last bit where the formula is exact."""

import math
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from pipeline.optim.schedule import ScheduleConfig

PEAK, ROWS = 0.5, 1000
SCHEDULE: TypeAdapter[ScheduleConfig] = TypeAdapter(ScheduleConfig)


def rates(tree: dict[str, Any], *rows: int, training_rows: int = ROWS) -> list[float]:
    schedule = SCHEDULE.validate_python(tree)
    return [schedule.learning_rate(PEAK, row, training_rows) for row in rows]


@pytest.mark.parametrize(
    ("tree", "rows", "expected"),
    [
        ({"type": "constant", "warmup_rows": 100}, (50, 100, 1000), [0.25, 0.5, 0.5]),
        ({"type": "constant", "warmup_share": 0.1}, (50, 100, 1000), [0.25, 0.5, 0.5]),
        ({"type": "linear", "warmup_share": 0.2}, (100, 200, 600), [0.25, 0.5, 0.25]),
        ({"type": "linear", "warmup_share": 0.2, "total_rows": 500}, (50, 100), [0.25, 0.5]),
        (
            {"type": "inverse_sqrt", "warmup_share": 0.1, "scale_rows": 100},
            (50, 100, 400),
            [0.25, 0.5, 0.25],
        ),
        ({"type": "linear"}, (0, 250, 1000), [0.5, 0.375, 0.0]),
        ({"type": "linear", "warmup_rows": 200, "final_ratio": 0.5}, (600, 1000), [0.375, 0.25]),
        ({"type": "linear", "total_rows": 500}, (250, 500, 900), [0.25, 0.0, 0.0]),
        ({"type": "cosine", "final_ratio": 0.1}, (0, 500, 1000), [0.5, 0.275, 0.05]),
        ({"type": "wsd", "decay_share": 0.5}, (500, 625, 1000), [0.5, 0.25, 0.0]),
        ({"type": "wsd", "decay_share": 1.0}, (0, 250, 1000), [0.5, 0.25, 0.0]),
        (
            {"type": "wsd", "warmup_rows": 200, "decay_share": 0.25, "decay": "linear"},
            (100, 200, 800, 900, 1000),  # a trapezoid
            [0.25, 0.5, 0.5, 0.25, 0.0],
        ),
        (
            {"type": "wsd", "decay_share": 0.5, "decay": "cosine", "final_ratio": 0.02},
            (500, 750, 1000),
            [0.5, 0.255, 0.01],
        ),
        (
            {"type": "wsd", "decay_share": 0.5, "final_ratio": 0.2},
            (625, 1000),
            [0.3, 0.1],
        ),
        (
            {"type": "inverse_sqrt", "warmup_rows": 100},
            (50, 100, 400, 900),
            [0.25, 0.5, 0.25, 1 / 6],
        ),
        ({"type": "inverse_sqrt", "scale_rows": 300}, (0, 900), [0.5, 0.25]),
        ({"type": "inverse_sqrt", "scale_rows": 100, "total_rows": 300}, (300, 900), [0.25, 0.25]),
    ],
    ids=str,
)
def test_rates(tree: dict[str, Any], rows: tuple[int, ...], expected: list[float]) -> None:
    assert rates(tree, *rows) == pytest.approx(expected, rel=1e-15, abs=1e-17)


def test_the_decay_without_new_keys_has_the_bits_of_older_versions() -> None:
    for row in range(0, ROWS + 1, 7):
        progress = (row - 30) / (ROWS - 30)
        old = PEAK * row / 30 if row < 30 else PEAK
        if progress > 0.8:
            old = PEAK * (1 - math.sqrt((progress - 0.8) / 0.2))
        assert rates({"type": "wsd", "warmup_rows": 30}, row) == [old]


@pytest.mark.parametrize(
    ("tree", "first_row"),
    [
        ({"type": "constant", "warmup_rows": 100}, None),
        ({"type": "inverse_sqrt", "warmup_rows": 100}, None),
        ({"type": "constant", "warmup_share": 0.1}, 1),
        ({"type": "inverse_sqrt", "warmup_share": 0.1, "scale_rows": 9}, 1),
        ({"type": "wsd", "warmup_share": 0.2, "decay_share": 0.25}, 1),
        ({"type": "linear", "warmup_share": 0.1, "total_rows": 500}, None),
        ({"type": "linear", "warmup_rows": 100}, 101),
        ({"type": "linear", "warmup_rows": 100, "total_rows": 500}, None),
        ({"type": "cosine"}, 1),
        ({"type": "wsd", "warmup_rows": 200, "decay_share": 0.25}, 801),
    ],
    ids=str,
)
def test_which_rates_depend_on_the_end(tree: dict[str, Any], first_row: int | None) -> None:
    """Those that are different in a longer training: exactly these."""
    schedule = SCHEDULE.validate_python(tree)
    for row in range(0, ROWS + 1):
        expected = first_row is not None and row >= first_row
        assert schedule.depends_on_end(row, ROWS) == expected, row
        differs = rates(tree, row) != rates(tree, row, training_rows=2 * ROWS)
        assert differs <= expected, row


def test_the_next_phase_repeats_no_warmup() -> None:
    schedule = SCHEDULE.validate_python({"type": "inverse_sqrt", "warmup_rows": 100})
    assert schedule.repeated().learning_rate(PEAK, 300, ROWS) == PEAK / 2
    with pytest.raises(ValidationError, match="needs scale_rows"):
        SCHEDULE.validate_python({"type": "inverse_sqrt"})
    shared = SCHEDULE.validate_python({"type": "linear", "warmup_share": 0.1})
    assert shared.repeated().learning_rate(PEAK, 0, ROWS) == PEAK


def test_a_warmup_is_given_once() -> None:
    with pytest.raises(ValidationError, match=r"warmup_rows 5 and warmup_share 0\.1: give one"):
        SCHEDULE.validate_python({"type": "linear", "warmup_rows": 5, "warmup_share": 0.1})
