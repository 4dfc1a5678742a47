"""One thread and no process group in the pytest process: neither survives a fork."""

import os
from collections.abc import Iterator
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before anything imports torch

import pytest
import torch.distributed as dist


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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks every test of a module that forks ranks: they need both cores, and run one by one."""
    for item in items:
        module = getattr(item, "module", None)
        if any(hasattr(module, name) for name in ("run_ranks", "in_one_rank")):
            item.add_marker(pytest.mark.ranks)
