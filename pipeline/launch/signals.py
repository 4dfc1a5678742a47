"""A request to stop, from a signal (preemption, time limit, Ctrl-C)."""

import signal
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopRequest:
    """Remembers the first stop signal of this rank.

    At the end of every optimizer step ranks exchange whether one of them has received a signal;
    `pipeline.launch.stop_agreement` lets them leave a step before its end. They then save, and exit
    with code 0.
    """

    def __init__(self) -> None:
        self.signal_name: str | None = None
        for number in STOP_SIGNALS:
            signal.signal(number, self._remember)

    @property
    def seen(self) -> bool:
        """Whether this rank has received a stop signal."""
        return self.signal_name is not None

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.signal_name = self.signal_name or signal.Signals(number).name


def ignore_stop_signals() -> None:
    """For processes that serve a rank: they end when the rank closes them, not on a signal."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
