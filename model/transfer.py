"""Copies of host tensors to the device of the model."""

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on `device`, without waiting for the kernels that were started before.

    For a GPU it is first copied to pinned memory: CUDA copies from pageable memory only when the
    stream has come to the copy, and the host waits for that. torch keeps pinned blocks for later
    copies, and gives a block away no earlier than its copy has ended.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        # A replay would read the block again, which holds something else by then.
        assert not torch.cuda.is_current_stream_capturing(), "a copy from the host in a CUDA graph"
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def copy_into(buffer: Tensor, tensor: Tensor) -> None:
    """Writes the host tensor `tensor` into `buffer`, of its shape, without waiting, as above."""
    if buffer.device.type == "cuda":
        tensor = tensor.pin_memory()
    buffer.copy_(tensor, non_blocking=True)
