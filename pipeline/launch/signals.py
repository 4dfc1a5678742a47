"""A request to stop, from a signal: the training loop looks at it between optimizer steps."""

import signal
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopRequest:
    """Notes the first stop signal; a launcher that signals one rank stops all of them.

    The loop asks all ranks together, finishes its step, saves and exits with code 0.
    """

    def __init__(self) -> None:
        self.signal_name: str | None = None
        for number in STOP_SIGNALS:
            signal.signal(number, self._note)

    @property
    def seen(self) -> bool:
        """Whether this rank got a stop signal."""
        return self.signal_name is not None

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal_name = self.signal_name or signal.Signals(number).name


def ignore_stop_signals() -> None:
    """For processes that serve a rank: they end when the rank closes them, not when signalled."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
