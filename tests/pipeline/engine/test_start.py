"""The process group of a launch lives from its start to its end, and no longer."""

import socket
from collections.abc import Callable

import pytest
import torch.distributed as dist

from pipeline.engine.start import process_group
from pipeline.launch.environment import Launch
from tests.forked import ForkedProcess


def free_port() -> str:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return str(server.getsockname()[1])


def start_and_stop() -> None:
    with process_group(Launch(0, 0, 1, 1)):
        assert dist.is_initialized()
    assert not dist.is_initialized()


def start_and_fail() -> None:
    with pytest.raises(RuntimeError), process_group(Launch(0, 0, 1, 1)):
        raise RuntimeError
    # Destroying would wait for peers that may be stuck in a collective.
    assert dist.is_initialized()


@pytest.mark.parametrize("launch", [start_and_stop, start_and_fail])
def test_a_launch_ends_its_process_group_unless_it_failed(launch: Callable[[], None]) -> None:
    environment = {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": free_port(),
    }
    done = ForkedProcess(launch, **environment).wait()
    assert done.returncode == 0, done.stderr
