"""Forked gloo ranks for tests: `run_ranks(fn, world_size, *args)` and `@in_one_rank`."""

import functools
from collections.abc import Callable
from typing import Any

from pipeline.launch.local_ranks import RankError, run_ranks

__all__ = ["RankError", "in_one_rank", "run_ranks"]


def in_one_rank(test: Callable[..., None]) -> Callable[..., None]:
    """The test, run on a forked rank of a process group of one.

    The pytest process itself must never start a gloo process group: its thread does not exist in
    ranks forked later, which then hang.
    """

    @functools.wraps(test)
    def run(*args: Any, **arguments: Any) -> None:
        run_ranks(functools.partial(test, *args, **arguments), 1)

    return run
