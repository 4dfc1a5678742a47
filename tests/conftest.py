"""Settings of the whole suite: no thread and no process group in the pytest process, no deadlines.

Neither a thread of torch nor a process group survives the fork of a rank.
"""

import os
from collections.abc import Iterator
from typing import Any
from unittest import mock

os.environ["OMP_NUM_THREADS"] = "1"  # before anything imports torch

import hypothesis
import pytest
import torch.distributed as dist

from pipeline.engine import stragglers
from tests.s3_server import S3Server

# A busy machine may be slow; no test is about time.
hypothesis.settings.register_profile("no_deadline", deadline=None)
hypothesis.settings.register_profile("same_examples", deadline=None, derandomize=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "no_deadline"))


def pytest_configure() -> None:
    """Gives each pytest-xdist worker, with all that it forks, one core of its own.

    The ranks of a test wait for each other all the time: to wake one on another core costs more
    than the work that it then does, above all in a virtual machine.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    cores = sorted(os.sched_getaffinity(0))
    if worker and int(os.environ["PYTEST_XDIST_WORKER_COUNT"]) >= len(cores) > 1:
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})


@pytest.fixture(autouse=True, scope="session")
def no_world_in_this_process() -> Iterator[None]:
    """Fails a test that starts a gloo process group here: ranks forked later would hang."""
    real = dist.init_process_group
    parent = os.getpid()

    def init_process_group(*args: Any, **arguments: Any) -> None:
        assert os.getpid() != parent, "use tests.gloo.in_one_rank or run_ranks for this"
        real(*args, **arguments)

    dist.init_process_group = init_process_group
    yield
    dist.init_process_group = real


@pytest.fixture(autouse=True, scope="session")
def short_peak_measurement() -> Iterator[None]:
    """Forked ranks measure their peak speed with few products: it is needed by every small run."""
    with mock.patch.object(stragglers, "PEAK_SECONDS", 0.01):
        yield


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    """A server of the S3 protocol, which s3fs asks."""
    with S3Server() as server:
        yield server


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts modules that fork ranks first: they are the longest, and a worker runs whole modules.

    Whole modules (`--dist loadfile`), so that each makes its fixtures once.
    """
    items.sort(key=lambda item: not forks_ranks(item))


def forks_ranks(item: pytest.Item) -> bool:
    """Whether the module of a test forks ranks."""
    module = getattr(item, "module", None)
    return any(hasattr(module, name) for name in ("run_ranks", "in_one_rank"))
