"""Starts the process group of a launch and chooses the device of this rank."""

import os
from datetime import timedelta

import torch
import torch.distributed as dist

from configs.load import UserError
from pipeline.engine import deepspeed_compat
from pipeline.launch.all_reduce_check import check_all_reduce
from pipeline.launch.environment import Launch


def start_distributed(launch: Launch, timeout_s: float = 1800.0) -> torch.device:
    """The device of this rank, after all ranks of the launch have met (NCCL on CUDA, else gloo).

    Raises UserError if the port of the launch is in use, or if an all-reduce gives wrong values.
    """
    import deepspeed

    deepspeed_compat.quiet_logs()
    if "OMP_NUM_THREADS" not in os.environ:  # otherwise torch has read it
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // launch.local_size))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", launch.local_rank)
        torch.cuda.set_device(device)
        # Without it torch refuses matrix products where kernels have to be deterministic.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    deepspeed_compat.use_accelerator_of(device)
    deepspeed_compat.skip_shared_memory_extension()
    try:
        with deepspeed_compat.without_start_messages():
            deepspeed.init_distributed(
                dist_backend="nccl" if device.type == "cuda" else "gloo",
                timeout=timedelta(seconds=timeout_s),
                auto_mpi_discovery=False,
                verbose=False,
            )
    except dist.DistNetworkError as error:
        if "EADDRINUSE" not in str(error):
            raise
        raise UserError(
            f"port {os.environ['MASTER_PORT']} is in use on this machine, perhaps by another run: "
            "start with deepspeed --master_port N, or set MASTER_PORT"
        ) from None
    check_all_reduce(device)
    return device
