"""The time left in a progress line is that of the whole run, whatever phase it is in."""

from types import SimpleNamespace
from typing import Any

from pipeline.pretraining.loop import _log_progress


def test_later_phases_count_by_the_length_of_their_rows() -> None:
    def phase(total_rows: int, row_tokens: int) -> SimpleNamespace:
        return SimpleNamespace(
            steps=SimpleNamespace(total_rows=total_rows),
            manifest=SimpleNamespace(row_tokens=row_tokens),
        )

    phases = (phase(100, 128), phase(10, 512), phase(20, 512))
    plan: Any = SimpleNamespace(phases=phases, steps=SimpleNamespace(total_steps=13))
    found = []
    meter: Any = SimpleNamespace(log_progress=lambda step, total, left, *_: found.append(left))
    for number, end_row in ((0, 60), (1, 10), (2, 20)):
        batch: Any = SimpleNamespace(phase=number, step=SimpleNamespace(end_row=end_row))
        _log_progress(plan, batch, meter, 1, {"loss": 1.0})
    assert found == [40 + 4 * 30, 20, 0]
