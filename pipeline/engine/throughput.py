"""What is measured of each optimizer step, and the progress line of training."""

import time
from collections import deque

import torch
import torch.distributed as dist

from pipeline.engine.stragglers import RankWatch, measure, measure_peak_flops

RATE_WINDOW_STEPS = 50
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


class StepMeter:
    """Times optimizer steps; rates are over the last `RATE_WINDOW_STEPS` of them.

    Making one and `step_ended` are collectives over all ranks.
    """

    def __init__(self, device: torch.device, precision: str) -> None:
        self._ranks = RankWatch(device)
        dist.barrier()  # ranks of a node share its processors: all measure at the same time
        peak = measure_peak_flops(device, DTYPES[precision])
        total = torch.tensor([peak], dtype=torch.float64, device=device)
        dist.all_reduce(total)
        self.peak_flops = float(total)
        """Operations a second of all ranks in large matrix products, measured here."""
        self._row_tokens = 0
        self._recent: deque[tuple[int, float]] = deque(maxlen=RATE_WINDOW_STEPS)  # (rows, s)
        self._step_began = self._data_came = time.monotonic()

    def data_arrived(self) -> None:
        """Call when the batch of a step is there."""
        self._data_came = time.monotonic()

    def step_ended(
        self, rows: int, row_tokens: int, flops: int, forward_s: float
    ) -> dict[str, float]:
        """The metrics of a step.

        `rows` and `flops` are those of the global batch, `forward_s` the seconds of this rank's
        forward passes.
        """
        self._row_tokens = row_tokens
        now = time.monotonic()
        step_s = now - self._step_began
        figures = self._ranks.look(measure(forward_s, self._data_came - self._step_began))
        self._recent.append((rows, step_s))
        self._step_began = now
        tokens = rows * row_tokens
        return figures | {
            "step_s": step_s,
            "tokens": tokens,
            "rows_per_s": rows / step_s,
            "tokens_per_s": tokens / step_s,
            "tokens_per_s_per_rank": tokens / step_s / dist.get_world_size(),
            "model_flops_utilization": flops / step_s / self.peak_flops,
        }

    def leave_out(self) -> None:
        """Call after work between steps (evaluation, saving) that is not a step's own."""
        self._step_began = time.monotonic()

    def stragglers(self) -> str | None:
        """A sentence on the ranks that were slow since the last call; None if none was."""
        return self._ranks.stragglers()

    def progress_line(
        self, step: int, total_steps: int, rows_left: int, values: dict[str, float]
    ) -> str:
        """One line a person reads while waiting; the time left is that of this phase."""
        rows_per_s = sum(rows for rows, _ in self._recent) / sum(s for _, s in self._recent)
        return (
            f"step {step:,}/{total_steps:,}  loss {values['loss']:.3f}  "
            f"lr {values['learning_rate']:.2e}  norm {values['gradient_norm']:.2f}  "
            f"{rows_per_s:,.0f} rows/s  {rows_per_s * self._row_tokens:,.0f} tokens/s  "
            f"{values['model_flops_utilization']:.0%} of peak  "
            f"{_duration(rows_left / rows_per_s)} left"
        )


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    minutes, seconds_left = divmod(rest, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds_left:02d}s"
