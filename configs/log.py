"""Logging for every command: one line a message, with time, rank and level.

Modules log through the standard library::

    logger = logging.getLogger(__name__)
    logger.info("checkpoint of step %d saved", step)

What a command was started to print (a plan, a table, the answer of a model) is its result, not a
log message, and goes to standard output with ``print``.
"""

import logging
import os
import sys


class _RankFilter(logging.Filter):
    """Adds `rank` to every record: ``rank 3 `` in a launch of several ranks, else nothing."""

    def __init__(self, rank: int | None) -> None:
        super().__init__()
        self._text = "" if rank is None else f"rank {rank} "

    def filter(self, record: logging.LogRecord) -> bool:
        """Never drops a record."""
        record.rank = self._text
        record.msg, record.args = record.getMessage().replace("\n", "\n  "), None
        return True


def configure(rank: int | None = None) -> None:
    """Sends this project's log messages to standard output.

    `rank` is the rank of this process in its launch; None reads it from the environment variable
    RANK and, where that is not set, logs without a rank. Rank 0 logs from INFO on, all other ranks
    from WARNING on, since they would repeat what rank 0 logs. Calling it again replaces the first
    call's settings.
    """
    if rank is None and os.environ.get("RANK", "").isdigit():
        rank = int(os.environ["RANK"])
    handler = logging.StreamHandler(sys.stdout)
    handler.addFilter(_RankFilter(rank))
    handler.setFormatter(
        logging.Formatter(
            "%(asctime)s %(rank)s%(levelname)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S"
        )
    )
    for name in ("configs", "data_prep", "model", "pipeline"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(logging.INFO if not rank else logging.WARNING)
        logger.propagate = False
