"""Checks that the ranks of a launch reach each other and add up correctly, before training."""

import socket

import torch
import torch.distributed as dist

from configs.load import UserError

NUM_VALUES = 1 << 16
"""Values of the check: 256 kB in fp32, too large for the eager path of small messages."""


def check_all_reduce(device: torch.device) -> None:
    """Returns when an all-reduce over all ranks gave the right values; a collective.

    Raises UserError on a rank that got wrong ones: its network or accelerator is faulty.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    values = torch.arange(NUM_VALUES, dtype=torch.float32, device=device).remainder_(64) + rank
    dist.all_reduce(values)
    expected = torch.arange(NUM_VALUES, dtype=torch.float32).remainder_(64) * world_size
    expected += world_size * (world_size - 1) / 2  # whole numbers below 2^24: exact in fp32
    num_wrong = int((values.cpu() != expected).sum())
    if num_wrong:
        raise UserError(
            f"an all-reduce of known result came out wrong on rank {rank} ({socket.gethostname()}) "
            f"in {num_wrong:,} of {NUM_VALUES:,} values: exclude that node (--exclude) and have "
            "its accelerator and network checked"
        )
