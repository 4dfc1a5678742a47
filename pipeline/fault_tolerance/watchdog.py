"""Ends a process that hangs, with the stacks of all its threads, so that a relaunch can resume."""

import faulthandler
from collections.abc import Iterator
from contextlib import contextmanager

STDERR = 2
"""The file descriptor: sys.stderr may be something that C code cannot write to."""


class Watchdog:
    """Ends the process with code 1 and all stacks on stderr when `alive` is not called in time.

    A timer in the interpreter's C code does it, so a process that is stuck in a collective or holds
    the interpreter lock ends too. Its peers then fail in their collectives, or end the same way.
    The timer is monotonic where Python was built with `sem_clockwait` (glibc 2.30 or newer).
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s

    def alive(self) -> None:
        """Call once a step: restarts the timer."""
        faulthandler.dump_traceback_later(self._timeout_s, exit=True, file=STDERR)


@contextmanager
def watchdog(timeout_s: float) -> Iterator[Watchdog]:
    """A running watchdog; it stops at the end of the block."""
    dog = Watchdog(timeout_s)
    dog.alive()
    try:
        yield dog
    finally:
        faulthandler.cancel_dump_traceback_later()
