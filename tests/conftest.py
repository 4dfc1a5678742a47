"""One thread and no gloo world in the pytest process: neither survives the fork of `tests.gloo`."""

import os
from collections.abc import Iterator

os.environ["OMP_NUM_THREADS"] = "1"  # before anything imports torch

import pytest
import torch.distributed as dist


@pytest.fixture(autouse=True, scope="session")
def no_world_in_this_process() -> Iterator[None]:
    """A world made here leaves a dead thread in ranks forked later, which then hang."""
    real = dist.init_process_group
    parent = os.getpid()

    def init_process_group(*args: object, **arguments: object) -> None:
        assert os.getpid() != parent, "use tests.gloo.in_one_rank or run_ranks for this"
        real(*args, **arguments)

    dist.init_process_group = init_process_group
    yield
    dist.init_process_group = real
