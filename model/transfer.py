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
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
