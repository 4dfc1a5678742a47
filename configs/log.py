"""Logging of every command: one line per message, with time, rank and level.

Modules log through the standard library::

    logger = logging.getLogger(__name__)
    logger.info("checkpoint of step %d saved", step)

What a command was started to print (a plan, a table, the answer of a model) is its result, not a
log message, and goes to standard output with ``print``.
"""

import logging
import os
import sys

from configs.redact import redact
from configs.terminal import visible

LOGGERS = ("configs", "data_prep", "model", "pipeline", "benchmarks", "__main__")
"""The packages of this project, and the file that Python was started with."""


class _LineFormatter(logging.Formatter):
    """``TIME rank R LEVEL MESSAGE``, without credentials and control characters; further lines are
    indented.

    Without `rank` (a process that no launcher started) the line has no ``rank R``.
    """

    def __init__(self, rank: int | None) -> None:
        rank_text = "" if rank is None else f"rank {rank} "
        super().__init__(
            f"%(asctime)s {rank_text}%(levelname)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S"
        )

    def format(self, record: logging.LogRecord) -> str:
        """One line for a message of one line; a traceback follows on further lines."""
        return visible(redact(super().format(record))).replace("\n", "\n  ")


def configure(rank: int | None = None) -> None:
    """Sends this project's log messages to standard output.

    `rank` is the rank of this process in its launch; None reads it from the environment variable
    RANK and, where that is not set, logs without a rank. Rank 0 logs from level INFO on, all other
    ranks from WARNING on, since they would repeat what rank 0 logs. A second call replaces the
    settings of the first.
    """
    if rank is None and os.environ.get("RANK", "").isdigit():
        rank = int(os.environ["RANK"])
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_LineFormatter(rank))
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(logging.INFO if not rank else logging.WARNING)
        logger.propagate = False
