"""Logging as it was before each test."""

import logging
from collections.abc import Iterator

import pytest

from configs.log import LOGGERS


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    """`configs.log.configure` changes loggers of the whole process."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(logger, logger.handlers, logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, handlers, level, propagate in before:
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)
