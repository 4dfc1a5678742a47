"""Throughput of optimizer steps, model FLOPs utilization (MFU), and the progress line."""

import logging
import time
from collections import deque
from collections.abc import Mapping

import torch
import torch.distributed as dist

from pipeline.data.position import RowWindow
from pipeline.engine.step import StepResult
from pipeline.engine.stragglers import StragglerWatch, measure_peak_flops, rank_cores

logger = logging.getLogger(__name__)

RATE_WINDOW_STEPS = 50
EMULATION_RATIO = 3.0
"""How much faster fp32 has to be for another number format to count as emulated."""
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


class StepMeter:
    """Times optimizer steps; the rates of the progress line are over `RATE_WINDOW_STEPS` steps.

    Making one is a collective over all ranks.
    """

    def __init__(self, device: torch.device, precision: str) -> None:
        self._stragglers = StragglerWatch()
        num_cores = rank_cores()
        dist.barrier()  # ranks of a node share its processors: all measure at the same time
        peak = measure_peak_flops(device, DTYPES[precision], num_cores)
        if dist.get_rank() == 0 and precision != "fp32":
            in_fp32 = measure_peak_flops(device, torch.float32, num_cores)
            _warn_if_emulated(precision, peak, in_fp32)
        total = torch.tensor([peak], dtype=torch.float64, device=device)
        dist.all_reduce(total)
        self.peak_flops = float(total)
        """Operations a second of all ranks in large matrix products, measured here; those of the
        fastest step where that was faster, as the machine was busy during the measurement."""
        self._is_peak_raised = False
        self.data_wait_s = 0.0
        """Seconds that this rank waited for the data of the present step."""
        self._recent: deque[tuple[int, int, float]] = deque(maxlen=RATE_WINDOW_STEPS)
        """(rows, tokens, seconds) of steps."""
        self._step_started_at = time.monotonic()

    def start_step(self) -> None:
        """Starts the time of the next step: call it after work between steps, such as saving."""
        self._step_started_at = time.monotonic()

    def data_arrived(self) -> None:
        """Call when the data of the step is there."""
        self.data_wait_s = time.monotonic() - self._step_started_at

    def step_finished(
        self, result: StepResult, rows: int, tokens: int, flops: int
    ) -> dict[str, float]:
        """The metrics of a step; `rows`, `tokens` and `flops` are those of its global batch.

        At ZeRO 1 a GPU has yet to update the weights, which is in the time of the next step
        or of the save that follows: a step's time holds the update of the step before.
        """
        now = time.monotonic()
        step_s = now - self._step_started_at
        self._step_started_at = now
        self._recent.append((rows, tokens, step_s))
        self._raise_peak(flops / step_s)
        return self._stragglers.observe(result.ranks) | {
            "step_s": step_s,
            "tokens": tokens,
            "rows_per_s": rows / step_s,
            "tokens_per_s": tokens / step_s,
            "tokens_per_s_per_rank": tokens / step_s / dist.get_world_size(),
            "model_flops_utilization": flops / step_s / self.peak_flops,
        }

    def _raise_peak(self, flops_per_s: float) -> None:
        if flops_per_s <= self.peak_flops:
            return
        if not self._is_peak_raised:
            logger.info(
                "the peak was measured as %.3g FLOP/s on a busy machine and a step reached %.3g: "
                "from here on utilization is relative to the fastest step",
                self.peak_flops,
                flops_per_s,
            )
        self._is_peak_raised = True
        self.peak_flops = flops_per_s

    def log_progress(
        self, step: int, total_steps: int, rows_left: int, losses: str, values: Mapping[str, float]
    ) -> None:
        """Logs one line on the newest step, and one on stragglers if there are any.

        `losses` is the line's text on losses, `values` are the metrics of the step, and `rows_left`
        are the rows that the remaining time is computed of.
        """
        rows, tokens, seconds = (sum(column) for column in zip(*self._recent, strict=True))
        logger.info(
            f"step {step:,}/{total_steps:,}  loss {losses}  "
            f"lr {values['learning_rate']:.2e}  norm {values['gradient_norm']:.2f}  "
            f"{rows / seconds:,.0f} rows/s  {tokens / seconds:,.0f} tokens/s  "
            f"{values['model_flops_utilization']:.0%} of peak  "
            f"{_duration(rows_left * seconds / rows)} left"
        )
        stragglers = self._stragglers.report()
        if stragglers is not None:
            logger.info(stragglers)


def log_if_skipped(step: int, result: StepResult, rows: RowWindow) -> None:
    """Logs why the step on `rows` changed no weight, if it did not."""
    if not result.skipped:
        return
    if result.overflowed:
        reason = f"overflow at loss scale {result.loss_scale:.0f}, which is halved"
    else:
        reason = (
            "a gradient was not finite; no weight was changed (rows "
            f"{rows.start_row:,} to {rows.end_row - 1:,})"
        )
    logger.info("step %d: %s", step, reason)


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    minutes, seconds_left = divmod(rest, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds_left:02d}s"


def _warn_if_emulated(precision: str, peak: float, in_fp32: float) -> None:
    """`peak` and `in_fp32`: operations a second in `precision` and in fp32.

    Processors and GPUs that lack a number format compute in it many times slower than in fp32.
    """
    if in_fp32 > EMULATION_RATIO * peak:
        logger.warning(
            "matrix products in %s are %.0f times slower than in fp32 on this device, which has no "
            "instructions for %s: set precision=fp32",
            *(precision, in_fp32 / peak, precision),
        )
