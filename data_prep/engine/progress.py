"""Reports how far a stage is: one line that is overwritten on a terminal, else log lines.

A batch log gets a line for each interval (a minute by default) that a stage takes, whether or not a
part was finished meanwhile, and one when the stage is done.
"""

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self, TextIO

from data_prep.engine.stage import Part, Stage

logger = logging.getLogger(__name__)

BATCH_INTERVAL_S = 60.0
TERMINAL_INTERVAL_S = 0.2
_BAR_WIDTH = 20


@dataclass
class StageProgress:
    """Counts of a stage at work."""

    name: str
    num_parts: int
    num_done: int
    """Parts that are finished, in earlier runs too."""
    total_bytes: int
    """Input of the parts that this run does."""
    clock: Callable[[], float] = time.monotonic
    """Seconds."""
    done_bytes: int = field(default=0, init=False)
    started_at: float = field(init=False)

    def __post_init__(self) -> None:
        self.started_at = self.clock()

    def add(self, part: Part) -> None:
        """Counts a finished part."""
        self.num_done += 1
        self.done_bytes += part.num_bytes

    @property
    def is_finished(self) -> bool:
        """Whether all parts are."""
        return self.num_done == self.num_parts

    def bar(self) -> str:
        """The share of finished parts as a bar."""
        filled = _BAR_WIDTH * self.num_done // max(self.num_parts, 1)
        return "#" * filled + "." * (_BAR_WIDTH - filled)

    def counts(self) -> str:
        """Parts, MB, MB/s, and the time left or, in the end, taken."""
        seconds = self.clock() - self.started_at
        words = [f"{self.num_done}/{self.num_parts} parts"]
        rate = self.done_bytes / max(seconds, 1e-9)
        if self.done_bytes:
            words += [f"{self.done_bytes / 1e6:,.1f} MB", f"{rate / 1e6:,.1f} MB/s"]
        if self.is_finished or not rate:
            words.append(f"{seconds:,.1f} s")
        else:
            left = (self.total_bytes - self.done_bytes) / rate
            words += [f"{seconds:,.0f} s", f"about {left:,.0f} s left"]
        return ", ".join(words)


@dataclass(frozen=True)
class ProgressReporter:
    """Reports stages to a terminal, or to the log where `terminal` is None."""

    terminal: TextIO | None = None
    interval_s: float = BATCH_INTERVAL_S
    """Seconds between two reports of a stage."""
    clock: Callable[[], float] = time.monotonic

    @classmethod
    def for_standard_output(cls) -> Self:
        """A progress line if standard output is a terminal, else log lines."""
        if sys.stdout.isatty():
            return cls(terminal=sys.stdout, interval_s=TERMINAL_INTERVAL_S)
        return cls()

    @contextmanager
    def stage(self, stage: Stage[Any], missing: Sequence[Part]) -> Iterator[StageProgress]:
        """Reports on a stage during the block, in which finished parts are to be added.

        `missing` are the parts that the block does.
        """
        progress = StageProgress(
            name=stage.name,
            num_parts=len(stage.parts),
            num_done=len(stage.parts) - len(missing),
            total_bytes=sum(part.num_bytes for part in missing),
            clock=self.clock,
        )
        stop = threading.Event()

        def report_regularly() -> None:
            while not stop.wait(self.interval_s):
                self._report(progress)

        # A thread, since a part may take longer than the interval.
        thread = threading.Thread(target=report_regularly, name="progress", daemon=True)
        thread.start()
        try:
            yield progress
        except BaseException:
            if self.terminal is not None:
                print(file=self.terminal, flush=True)  # the error starts on a line of its own
            raise
        finally:
            stop.set()
            thread.join()
        self._report(progress)
        if self.terminal is not None:
            print(file=self.terminal, flush=True)

    def _report(self, progress: StageProgress) -> None:
        if self.terminal is None:
            logger.info("%s: %s", progress.name, progress.counts())
            return
        bar = "" if progress.is_finished else f"{progress.bar()} "
        line = f"\r\x1b[2K{progress.name:<15} {bar}{progress.counts()}"
        print(line, end="", file=self.terminal, flush=True)
