"""How the ranks of a launch meet: on loopback where all of them are on one machine.

torch's own start listens on all interfaces. Whoever reaches those ports could read gradients and
end the run, so they are open to other machines only where ranks run there: then the cluster's
network has to be trusted.
"""

import errno
import os
import socket
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore, TCPStore

from configs.load import UserError
from pipeline.launch.environment import Launch

LOOPBACK = "127.0.0.1"
LOOPBACK_INTERFACE = "lo"


def connect(launch: Launch, device: torch.device, timeout_s: float) -> None:
    """Makes torch's process group of `launch` (NCCL on CUDA, else gloo); every rank calls it.

    Raises UserError if the port of the launch is in use, and on a rank whose kind of device is not
    that of rank 0: the two would wait for each other in different backends.
    """
    timeout = timedelta(seconds=timeout_s)
    is_local = is_on_one_machine(launch)
    if is_local:
        use_loopback()
    try:
        store = _store(launch, is_local, timeout)
        _check_device(store, launch.rank, device)
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=store,
            rank=launch.rank,
            world_size=launch.world_size,
            timeout=timeout,
            # With it torch splits NCCL's first communicator for later groups; one rank has no peer.
            device_id=device if device.type == "cuda" and launch.world_size > 1 else None,
        )
    except (dist.DistNetworkError, OSError) as error:
        if "EADDRINUSE" not in str(error) and getattr(error, "errno", None) != errno.EADDRINUSE:
            raise
        raise UserError(
            f"port {os.environ['MASTER_PORT']} is in use on this machine, perhaps by another run: "
            "start with deepspeed --master_port N, or set MASTER_PORT"
        ) from None


def is_on_one_machine(launch: Launch) -> bool:
    """Whether all ranks are on this machine, as far as the launcher says."""
    address = os.environ.get("MASTER_ADDR", "")
    return launch.world_size == launch.local_size or address in (LOOPBACK, "localhost", "::1")


def use_loopback() -> None:
    """Lets gloo and NCCL listen on loopback only, unless the user has named an interface."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", LOOPBACK_INTERFACE)
    os.environ.setdefault("NCCL_SOCKET_IFNAME", LOOPBACK_INTERFACE)


def launch_store() -> Any:
    """The key-value store through which the ranks of the process group have met."""
    return dist.distributed_c10d._get_default_store()


def _store(launch: Launch, is_local: bool, timeout: timedelta) -> Any:
    """The key-value store of the launch, on rank 0; one process needs no port for it."""
    if launch.world_size == 1:
        return HashStore()
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    is_server = launch.rank == 0 and not _is_torchruns()
    if is_local and not _is_torchruns():
        address = LOOPBACK
    listener = _listen(port) if is_server and is_local else None
    return TCPStore(
        address,
        port,
        launch.world_size,
        is_master=is_server,
        timeout=timeout,
        wait_for_workers=False,
        multi_tenant=listener is None,
        master_listen_fd=listener,
    )


def _check_device(store: Any, rank: int, device: torch.device) -> None:
    if rank == 0:
        store.set("device", device.type)
    first = store.get("device").decode()
    if device.type != first:
        raise UserError(
            f"rank {rank} on {socket.gethostname()} found device {device.type}, rank 0 {first}: "
            "every rank needs an accelerator, or none may see one (CUDA_VISIBLE_DEVICES)"
        )


def _is_torchruns() -> bool:
    """Whether torchrun itself is the server of the store at MASTER_ADDR."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _listen(port: int) -> int:
    """The file descriptor of a socket that listens on loopback; torch closes it."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((LOOPBACK, port))
        server.listen(socket.SOMAXCONN)
        return server.detach()
