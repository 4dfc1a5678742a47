"""What each rank measures of a step, compared over all ranks: stragglers, memory, peak speed.

Ranks wait for each other in collectives, so the time of a whole step is the same on all. What
differs is the time of their forward passes: under ZeRO 1 and 2 these meet tensor-parallel peers
only, but for new weights, for which all ranks wait alike.
"""

import os
import resource
import socket
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.parallel.json_exchange import gather_json

STRAGGLER_RATIO = 1.3
"""A rank whose forward passes take this many times the median is reported as a straggler."""

PEAK_SECONDS = 0.3
"""How long the peak is measured: long enough for a GPU to leave its idle clock rate."""


@dataclass(frozen=True)
class RankMeasurements:
    """What one rank measured of one step."""

    forward_s: float
    """Seconds of its forward passes."""
    data_wait_s: float
    """Seconds it waited for its batch."""
    host_gb: float
    """Largest host memory of its process so far, 1e9 bytes."""
    device_gb: float
    """Largest accelerator memory of its tensors so far, 1e9 bytes."""
    clock_s: float
    """Seconds on the clock of its host, which only moves forward."""


class Stopwatch:
    """Adds up the time of ``with`` blocks, on the device's own clock and without waiting for it."""

    def __init__(self, device: torch.device) -> None:
        self._is_cuda = device.type == "cuda"
        self._events: list[torch.cuda.Event] = []
        self._seconds = 0.0

    def __enter__(self) -> None:
        self._mark(-1)

    def __exit__(self, *error: object) -> None:
        self._mark(1)

    def _mark(self, sign: int) -> None:
        if self._is_cuda:
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record()
            self._events.append(event)
        else:
            self._seconds += sign * time.perf_counter()

    def seconds(self) -> float:
        """The sum so far; waits for the device to reach the end of the last block.

        `take_step` asks when it has queued the last backward pass, which the device works on while
        the host waits.
        """
        if not self._is_cuda:
            return self._seconds
        if self._events:
            self._events[-1].synchronize()
        pairs = zip(self._events[::2], self._events[1::2], strict=True)
        return float(sum(start.elapsed_time(end) for start, end in pairs)) / 1e3


def measure_rank(forward_s: float, data_wait_s: float) -> RankMeasurements:
    """The measurements of this rank."""
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    device = torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else 0.0
    return RankMeasurements(forward_s, data_wait_s, host, device, time.monotonic())


class StragglerWatch:
    """Compares the ranks' measurements over the steps between two reports."""

    def __init__(self) -> None:
        """A collective: ranks exchange their host names."""
        self._names: list[str] = gather_json(socket.gethostname())
        self._forward_s: list[NDArray[np.float64]] = []

    def observe(self, ranks: Sequence[RankMeasurements]) -> dict[str, float]:
        """Metrics of a step: forward seconds of the median and the slowest rank, worst values."""
        table = np.array([astuple(rank) for rank in ranks])
        forward_s, data_wait_s, host_gb, device_gb, _ = table.T
        self._forward_s.append(forward_s)
        metrics = {
            "forward_s": float(np.median(forward_s)),
            "slowest_forward_s": float(forward_s.max()),
            "slowest_rank": float(forward_s.argmax()),
            "data_wait_s": float(data_wait_s.max()),
            "host_memory_gb": float(host_gb.max()),
        }
        return metrics | ({"device_memory_gb": float(device_gb.max())} if device_gb.any() else {})

    def report(self) -> str | None:
        """A line on the ranks that were slow in the steps since the last call; None if none was."""
        if not self._forward_s:
            return None
        mean_s = np.mean(self._forward_s, axis=0)
        self._forward_s.clear()
        return straggler_line(mean_s, self._names)


def straggler_line(forward_s: NDArray[np.float64], names: Sequence[str]) -> str | None:
    """Names the ranks whose `forward_s` [ranks] are far above the median; None if none is."""
    median = float(np.median(forward_s))
    slow = [rank for rank, s in enumerate(forward_s) if s > STRAGGLER_RATIO * median]
    if not slow:
        return None
    parts = [f"rank {rank} on {names[rank]} {forward_s[rank] / median:.1f}" for rank in slow[:8]]
    more = f" and {len(slow) - 8} more" if len(slow) > 8 else ""
    return f"slow ranks, as multiples of the median forward time: {', '.join(parts)}{more}"


def measure_peak_flops(device: torch.device, dtype: torch.dtype, num_cores: float = 1.0) -> float:
    """Operations a second of this rank in large matrix products: the best of `PEAK_SECONDS`.

    On the CPU those of a second of processor time, on the `num_cores` cores that the rank may use:
    time that other processes take from it then makes no difference. There the products grow until
    one would take longer than the whole measurement, as in a number format that is emulated.
    """
    is_cuda = device.type == "cuda"
    sizes = (8192,) if is_cuda else (128, 512, 1024)
    # Random: on equal values a GPU draws less power, and so runs faster than in training.
    generator = torch.Generator(device).manual_seed(0)
    best = 0.0
    for size in sizes:
        if best and 2.0 * size**3 / best > 2 * PEAK_SECONDS:
            break
        left = torch.randn((size, size), generator=generator, device=device).to(dtype)
        right = left.T.contiguous()
        torch.mm(left, right)
        _wait(device)
        measure = _best_rate if is_cuda else _rate_of_processors
        best = max(best, measure(left, right, PEAK_SECONDS / len(sizes)))
    return best * (1.0 if is_cuda else num_cores)


def _best_rate(left: Tensor, right: Tensor, seconds: float) -> float:
    """Operations a second of the fastest product of the two within `seconds`."""
    times: list[float] = []
    ends_at = time.perf_counter() + seconds
    while not times or time.perf_counter() < ends_at:
        start = time.perf_counter()
        torch.mm(left, right)
        _wait(left.device)
        times.append(time.perf_counter() - start)
    return 2.0 * len(left) ** 3 / min(times)


def _rate_of_processors(left: Tensor, right: Tensor, seconds: float) -> float:
    """Operations in a second of processor time, of products of the two for `seconds`.

    Not of the fastest one: Linux adds the time of a process's other threads, while they run, some
    milliseconds late.
    """
    count, start = 0, time.process_time()
    ends_at = time.perf_counter() + seconds
    while not count or time.perf_counter() < ends_at:
        torch.mm(left, right)
        count += 1
    return 2.0 * count * len(left) ** 3 / (time.process_time() - start)


def rank_cores() -> float:
    """The processor cores that this rank may use with its threads; a collective.

    A core that several ranks of a host may use counts for each of them in equal parts.
    """
    host, cores = socket.gethostname(), os.sched_getaffinity(0)
    ranks: list[tuple[str, list[int]]] = gather_json((host, sorted(cores)))
    of_host = [set(theirs) for name, theirs in ranks if name == host]
    share = sum(1 / sum(core in theirs for theirs in of_host) for core in cores)
    return min(share, torch.get_num_threads())


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
