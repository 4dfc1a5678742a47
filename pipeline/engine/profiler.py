"""A trace of some optimizer steps by torch's profiler, for chrome://tracing or Perfetto."""

import argparse
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

FOLDER_NAME = "profile"


@dataclass(frozen=True)
class ProfiledSteps:
    """A range of optimizer steps, counted from the start of the run."""

    first: int
    """The first step of the trace, from 1."""
    last: int
    """The last step of the trace."""


def profiled_steps(text: str) -> ProfiledSteps:
    """The steps of the command-line value ``A:B``; both A and B are in the trace."""
    first, separator, last = text.partition(":")
    if not (separator and first.isdecimal() and last.isdecimal() and 0 < int(first) <= int(last)):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a range of steps such as 10:12 (steps 10, 11 and 12)"
        )
    return ProfiledSteps(int(first), int(last))


class StepProfiler:
    """Profiles the wanted steps of this rank and writes one trace of them."""

    def __init__(self, steps: ProfiledSteps | None, path: Path) -> None:
        self._steps = steps
        self._path = path
        self._profile: torch.profiler.profile | None = None

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Around the work of the optimizer step `number`, which is traced if it is wanted."""
        if self._steps is None or not self._steps.first <= number <= self._steps.last:
            yield
            return
        import torch

        if self._profile is None:
            activities = [torch.profiler.ProfilerActivity.CPU]
            if torch.cuda.is_available():
                activities.append(torch.profiler.ProfilerActivity.CUDA)
            self._profile = torch.profiler.profile(activities=activities)
            self._profile.start()
        with torch.profiler.record_function(f"step {number}"):
            yield
        if number == self._steps.last:
            self.finish()

    def finish(self) -> None:
        """Writes the trace of the steps so far, if there are any and it is not written yet."""
        if self._profile is not None:
            self._profile.stop()
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._profile.export_chrome_trace(str(self._path))
            self._profile = None
            logger.info("the profile is in %s", self._path)


@contextmanager
def step_profiler(steps: ProfiledSteps | None, output: Path, rank: int) -> Iterator[StepProfiler]:
    """Writes ``profile/steps-A-B-rank-R.json`` in the run's folder `output`; nothing without steps.

    A run that ends before the last of the steps gets a trace of those that it took.
    """
    name = f"steps-{steps.first}-{steps.last}-rank-{rank}.json" if steps else ""
    profiler = StepProfiler(steps, output / FOLDER_NAME / name)
    try:
        yield profiler
    finally:
        profiler.finish()
