"""What a run costs: hours, energy, price, expected failures, and how often to save for them."""

import math
from dataclasses import dataclass

from pipeline.planning.accelerators import Accelerator

HOURS_OF_A_FAILURE = 50_700
"""Accelerator hours for each unexpected interruption of a job: 419 in 54 days on 16,384 H100
(Dubey et al. 2024, "The Llama 3 Herd of Models", section 3.3.4). Another cluster reports 8,100:
7.9 hours of a job on 1,024 A100 (Kokolis et al. 2024, "Revisiting Reliability in Large-Scale
Machine Learning Research Clusters")."""
STORAGE_BYTES_S = 1e9
"""Bytes a second that a shared file system writes, where nothing else is given (assumed)."""
RESTART_S = 300.0
"""Seconds from a failure to the next step: requeue, imports, connecting, reading (assumed)."""


@dataclass(frozen=True)
class Failures:
    """What hardware failures cost, and how often to save for it."""

    expected: float
    """Of the whole run."""
    hours_between: float
    """Mean time between failures of all accelerators together."""
    save_s: float
    """Seconds to write a checkpoint."""
    interval_s: float
    """Seconds between checkpoints that lose least."""
    lost_share: float
    """Share of the time that saves, repeated steps and restarts take at that interval."""


@dataclass(frozen=True)
class Cost:
    """What a run takes and costs."""

    hours: float
    accelerator_hours: float
    energy_kwh: float | None
    """Of the accelerators at their power limit; None where the power is not known."""
    price: float | None
    failures: Failures


def cost_of(
    hours: float,
    world_size: int,
    checkpoint_bytes: float,
    storage_bytes_s: float = STORAGE_BYTES_S,
    accelerator: Accelerator | None = None,
    price_per_hour: float | None = None,
) -> Cost:
    """The cost of `hours` on `world_size` accelerators, at `price_per_hour` of each."""
    accelerator_hours = hours * world_size
    energy = None if accelerator is None else accelerator_hours * accelerator.power_w / 1000
    price = None if price_per_hour is None else accelerator_hours * price_per_hour
    failures = failures_of(accelerator_hours, world_size, checkpoint_bytes / storage_bytes_s)
    return Cost(hours, accelerator_hours, energy, price, failures)


def failures_of(accelerator_hours: float, world_size: int, save_s: float) -> Failures:
    """The failures to expect, and the best interval for saves that take `save_s` seconds.

    Saves are counted as if training waited for them: the interval is the shortest that is worth it.
    """
    between_s = HOURS_OF_A_FAILURE / world_size * 3600
    interval = save_interval(save_s, between_s)
    lost = save_s / (interval + save_s) + ((interval + save_s) / 2 + RESTART_S) / between_s
    return Failures(
        expected=accelerator_hours / HOURS_OF_A_FAILURE,
        hours_between=between_s / 3600,
        save_s=save_s,
        interval_s=interval,
        lost_share=min(1.0, lost),
    )


def save_interval(save_s: float, between_failures_s: float) -> float:
    """Seconds of training between saves that lose the least time.

    Young 1974, "A first order approximation to the optimum checkpoint interval": sqrt(2 d M), with
    the terms of higher order of Daly 2006, "A higher order estimate of the optimum checkpoint
    interval for restart dumps", equation 37; M where a save takes more than half of it.
    """
    if save_s >= 2 * between_failures_s:
        return between_failures_s
    ratio = save_s / (2 * between_failures_s)
    young = math.sqrt(2 * save_s * between_failures_s)
    return young * (1 + math.sqrt(ratio) / 3 + ratio / 9) - save_s
