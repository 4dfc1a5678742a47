"""Fixtures of the tests of data preparation."""

import logging
from collections.abc import Iterator

import pytest


class _ListHandler(logging.Handler):
    def __init__(self, messages: list[str]) -> None:
        super().__init__()
        self._messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        self._messages.append(record.getMessage())


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """The messages that data_prep logs during the test."""
    messages: list[str] = []
    handler = _ListHandler(messages)
    logger = logging.getLogger("data_prep")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield messages
    logger.removeHandler(handler)
    logger.setLevel(level)
