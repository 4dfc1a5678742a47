"""Turns a hang into the stacks of every thread and an exit, after which a relaunch goes on."""

import faulthandler
from collections.abc import Iterator
from contextlib import contextmanager

STDERR = 2
"""The file descriptor: sys.stderr may be something that C code cannot write to."""


class Watchdog:
    """Ends the process with code 1 and all stacks on stderr when `alive` was not called in time.

    A timer of the interpreter's C code does it, so that a process stuck in a collective or holding
    the interpreter lock ends too. The other ranks then fail in their collectives, or end likewise.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s

    def alive(self) -> None:
        """Call once a step: the time begins anew."""
        faulthandler.dump_traceback_later(self._timeout_s, exit=True, file=STDERR)


@contextmanager
def watchdog(timeout_s: float) -> Iterator[Watchdog]:
    """A running watchdog; at the end of the block it is off."""
    dog = Watchdog(timeout_s)
    dog.alive()
    try:
        yield dog
    finally:
        faulthandler.cancel_dump_traceback_later()
