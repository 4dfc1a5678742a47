"""One rank of a launch of any size, without its peers: torch's fake process group."""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.engine import deepspeed_compat


def as_rank(function: Callable[..., Any], rank: int, world_size: int, *args: Any) -> Any:
    """What `function` returns as one rank of `world_size`, in a process of its own.

    Collectives return at once. What they should bring from other ranks is not there: all but the
    number, the kind and the size of them is undefined.
    """
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(
        target=_run, args=(sender, function, rank, world_size, args)
    )
    process.start()
    sender.close()
    try:
        error, result = receiver.recv()
    except EOFError:
        error, result = "it ended without a result", None
    process.join()
    assert error is None, f"rank {rank} of {world_size}: {error}"
    return result


def _run(
    sender: Connection, function: Callable[..., Any], rank: int, world_size: int, args: Any
) -> None:
    torch.set_num_threads(1)
    os.environ["LOCAL_RANK"] = "0"
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world_size)
    deepspeed = deepspeed_compat.import_deepspeed()
    deepspeed_compat.quiet_logs()
    deepspeed_compat.use_accelerator_of(torch.device("cpu"))
    deepspeed_compat.skip_shared_memory_extension()
    with deepspeed_compat.without_start_messages():
        deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)
    try:
        sender.send((None, function(*args)))
    except BaseException as error:
        sender.send((f"{type(error).__name__}: {error}", None))
        raise


class Collectives(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The collectives of this rank in a ``with`` block, with what it contributes to each."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[tuple[str, torch.dtype, int]] = []
        """(name, number format, elements of this rank's largest tensor)."""
        self.most_tensors = 0
        """The most tensors that one collective was given."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        if name.startswith("c10d."):
            tensors = list(_tensors_in(args))
            largest = max(tensors, key=torch.Tensor.numel)
            short = name.removeprefix("c10d.").removesuffix(".default").strip("_")
            self.found.append((short, largest.dtype, largest.numel()))
            self.most_tensors = max(self.most_tensors, len(tensors))
        return func(*args, **(kwargs or {}))


def _tensors_in(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors_in(part)
