"""The process group of a launch lives from its start to its end, and no longer."""

import os
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from configs.load import UserError
from pipeline.engine.start import process_group
from pipeline.launch.environment import Launch
from pipeline.launch.rendezvous import connect
from tests.forked import ForkedProcess


def free_port() -> str:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return str(server.getsockname()[1])


def start_and_stop() -> None:
    with process_group(Launch(0, 0, 1, 1)):
        assert dist.is_initialized()
    assert not dist.is_initialized()


def start_and_list_listeners(rank: int) -> None:
    with process_group(Launch(rank, rank, 2, 2)):
        dist.all_reduce(torch.ones(1))
        print(*listening_addresses())


def listening_addresses() -> set[str]:
    """The addresses on which this process accepts connections, as hexadecimal numbers."""
    links = {os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()}
    lines = []
    for table in ("tcp", "tcp6"):
        lines += Path("/proc/net", table).read_text().splitlines()[1:]
    sockets = [line.split() for line in lines]
    listening = "0A"
    return {
        local.rpartition(":")[0]
        for _, local, _, state, *_, in_use in ((*s[:4], s[9]) for s in sockets)
        if state == listening and f"socket:[{in_use}]" in links
    }


@pytest.mark.parametrize("address", ["127.0.0.1", socket.gethostname()])
def test_the_ranks_of_one_machine_listen_on_loopback_only(address: str) -> None:
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": address, "MASTER_PORT": free_port()}
    ranks = [
        ForkedProcess(partial(start_and_list_listeners, rank), RANK=str(rank), **place)
        for rank in (0, 1)
    ]
    for rank in ranks:
        done = rank.wait()
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == ["0100007F"], "127.0.0.1 alone, in the kernel's byte order"


def meet_with_device(rank: int) -> None:
    device = torch.device("cuda" if rank else "cpu")
    if rank:
        with pytest.raises(UserError, match=r"rank 1 on .* found device cuda, rank 0 cpu"):
            connect(Launch(1, 1, 2, 2), device, timeout_s=60)
    else:
        with pytest.raises(RuntimeError):  # rank 1 does not come
            connect(Launch(0, 0, 2, 2), device, timeout_s=3)


def test_a_rank_without_the_accelerator_of_the_rest_is_named() -> None:
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    ranks = [ForkedProcess(partial(meet_with_device, rank), **place) for rank in (0, 1)]
    for done in [rank.wait() for rank in ranks]:
        assert done.returncode == 0, done.stderr


def start_alone_and_list_listeners() -> None:
    with process_group(Launch(0, 0, 1, 1)):
        print(*listening_addresses())


def test_one_process_needs_no_port() -> None:
    done = ForkedProcess(start_alone_and_list_listeners, RANK="0", WORLD_SIZE="1").wait()
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) <= {"0100007F"}


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
