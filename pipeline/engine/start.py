"""The process group of a launch, from its start to its end, and the device of this rank."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from configs.allocator import keep_freed_memory
from model.parallel.grid import close_grid
from pipeline.engine import deepspeed_compat
from pipeline.launch.all_reduce_check import check_all_reduce
from pipeline.launch.environment import Launch
from pipeline.launch.heavy_imports import heavy_imports
from pipeline.launch.rendezvous import connect


@contextmanager
def process_group(
    launch: Launch, timeout_s: float = 1800.0, tp_size: int = 1
) -> Iterator[torch.device]:
    """In this block the ranks of `launch` are connected; gives the device of this rank.

    A process group that exists before (of forked ranks, in tests) is used and kept. Any other is
    destroyed at the end of the block, but not after an error: then peers may wait in a collective,
    for which destroying would wait too. The errors are those of `start_distributed`.
    """
    starts_group = not dist.is_initialized()
    yield start_distributed(launch, timeout_s, tp_size)
    close_grid()
    if starts_group:
        stop_distributed()


def start_distributed(launch: Launch, timeout_s: float = 1800.0, tp_size: int = 1) -> torch.device:
    """The device of this rank, after all ranks of the launch have met (NCCL on CUDA, else gloo).

    Raises UserError if the port of the launch is in use, or if an all-reduce gives wrong values.
    """
    with heavy_imports():
        deepspeed = deepspeed_compat.import_deepspeed()

    deepspeed_compat.quiet_logs()
    deepspeed_compat.hide_old_names_of_collectives()
    if "OMP_NUM_THREADS" not in os.environ:  # otherwise torch has read it
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // launch.local_size))
    if tp_size > 1:
        # megatron-core's tensor-parallel layers start a collective before the matrix product that
        # hides it: with more than one queue of work CUDA may start them in the other order.
        os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", launch.local_rank)
        torch.cuda.set_device(device)
        # Without it torch refuses matrix products where kernels have to be deterministic.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    else:
        keep_freed_memory(everything=True)
    deepspeed_compat.use_accelerator_of(device)
    deepspeed_compat.skip_shared_memory_extension()
    if not dist.is_initialized():
        connect(launch, device, timeout_s)
    with deepspeed_compat.without_start_messages():
        deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)
    check_all_reduce(device)
    return device


def stop_distributed() -> None:
    """Destroys all process groups of this rank; every rank of the launch calls it.

    Without it a thread of gloo may still hold a tensor of the last collective when Python ends, and
    then aborts the process ("terminate called without an active exception"): about one launch in a
    hundred failed so after all its steps. See https://github.com/pytorch/pytorch/issues/190489.
    """
    from deepspeed import comm

    comm.destroy_process_group()  # torch's function, and DeepSpeed's own references
    gc.collect()  # gloo's threads end with the last reference; the engine has reference cycles
