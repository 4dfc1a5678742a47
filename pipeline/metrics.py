"""Rates and the progress line of training."""

import time
from collections import deque

RATE_WINDOW_STEPS = 50


class StepTimer:
    """Times optimizer steps; rates are over the last `RATE_WINDOW_STEPS` of them."""

    def __init__(self) -> None:
        self._row_tokens = 0
        self._recent: deque[tuple[int, float]] = deque(maxlen=RATE_WINDOW_STEPS)  # (rows, s)
        self._step_began = self._data_came = time.monotonic()

    def data_arrived(self) -> None:
        """Call when the batch of a step is there."""
        self._data_came = time.monotonic()

    def step_ended(self, rows: int, row_tokens: int) -> dict[str, float]:
        """Call after a step of `rows`: its seconds, and rows and tokens a second over all ranks."""
        self._row_tokens = row_tokens
        now = time.monotonic()
        step_s = now - self._step_began
        data_wait_s = self._data_came - self._step_began
        self._recent.append((rows, step_s))
        self._step_began = now
        return {
            "step_s": step_s,
            "data_wait_s": data_wait_s,
            "tokens": rows * row_tokens,
            "rows_per_s": rows / step_s,
            "tokens_per_s": rows * self._row_tokens / step_s,
        }

    def leave_out(self) -> None:
        """Call after work between steps (evaluation, saving) that is not a step's own."""
        self._step_began = time.monotonic()

    def progress_line(
        self, step: int, total_steps: int, rows_left: int, values: dict[str, float]
    ) -> str:
        """One line a person reads while waiting; the time left is that of this phase."""
        rows_per_s = sum(rows for rows, _ in self._recent) / sum(s for _, s in self._recent)
        return (
            f"step {step:,}/{total_steps:,}  loss {values['loss']:.3f}  "
            f"lr {values['learning_rate']:.2e}  norm {values['gradient_norm']:.2f}  "
            f"{rows_per_s:,.0f} rows/s  {rows_per_s * self._row_tokens:,.0f} tokens/s  "
            f"{_duration(rows_left / rows_per_s)} left"
        )


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    minutes, seconds_left = divmod(rest, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds_left:02d}s"
