"""What a part costs: processor time, opened files, bytes read and written, the peak of memory.

Counted by the system where it counts them, so that no code of a stage can forget to. Bytes that
are read through a mapping of a file are not among those that the system counts.
"""

import resource
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

_PROCESS = Path("/proc/self")
_CODE = (".py", ".pyc", ".so")
"""Files that imports open."""


@dataclass
class Costs:
    """Of one part."""

    opens: int = 0
    """Files that were opened, those of Python code not counted."""
    bytes_read: int = 0
    bytes_written: int = 0
    peak_bytes: int = 0
    """The most memory that the process had."""
    cpu_ms: int = 0
    """Processor time of the process, all its threads."""

    def tree(self) -> dict[str, int]:
        """As JSON values."""
        return asdict(self)


@contextmanager
def measured_costs() -> Iterator[Costs]:
    """Costs of the block in this thread, complete when it ends without error.

    Time, bytes and memory are those of the process: other threads of a worker do little.
    """
    counter = _open_counter()
    costs = Costs()
    _reset_peak()
    before, opens, started = _io(), counter.count, time.process_time_ns()
    counter.thread = threading.get_ident()
    yield costs
    costs.opens = counter.count - opens
    after = _io()
    costs.bytes_read = after["rchar"] - before["rchar"]
    costs.bytes_written = after["wchar"] - before["wchar"]
    costs.peak_bytes = _peak_bytes()
    costs.cpu_ms = (time.process_time_ns() - started) // 1_000_000


def count_open() -> None:
    """Counts a file that a library opens without Python's knowledge."""
    _open_counter().count += 1


def resident_bytes() -> int:
    """The memory that this process has now; 0 where the system does not say."""
    try:
        pages = (_PROCESS / "statm").read_text().split()[1]
    except OSError:
        return 0
    return int(pages) * resource.getpagesize()


class _OpenCounter:
    """Counts the files that one thread opens. Python tells an audit hook of each."""

    def __init__(self) -> None:
        self.count = 0
        self.thread = threading.get_ident()

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Called for every event of the process."""
        if event == "open" and threading.get_ident() == self.thread:
            self.count += not str(arguments[0]).endswith(_CODE)


@cache
def _open_counter() -> _OpenCounter:
    """The counter of this process: a hook cannot be removed again."""
    counter = _OpenCounter()
    sys.addaudithook(counter.hook)
    return counter


def _io() -> dict[str, int]:
    """Bytes that this process has read and written; zeros where the system does not say."""
    try:
        lines = (_PROCESS / "io").read_text().splitlines()
    except OSError:
        return {"rchar": 0, "wchar": 0}
    return {name: int(value) for name, _, value in (line.partition(": ") for line in lines)}


def _reset_peak() -> None:
    with suppress(OSError):  # without it, the peak is that of the process since its start
        (_PROCESS / "clear_refs").write_text("5")


def _peak_bytes() -> int:
    try:
        status = (_PROCESS / "status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024
