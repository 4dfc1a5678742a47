"""What a rank holds while it trains: bytes of tensors and of its process."""

import gc
import warnings
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Measured:
    """Bytes of one rank."""

    state: int
    """Of all tensors between two micro-batches of a step."""
    growth: int
    """By which its process grew at most, from before its model was built."""


def process_bytes(key: str) -> int:
    """VmRSS (now) or VmHWM (at most) of this process."""
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith(key))
    return int(line.split()[1]) * 1024


def tensor_bytes() -> int:
    """Of all tensors of this process, each storage once."""
    storages: dict[int, int] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of attributes that are read although they are old
        for found in gc.get_objects():
            if not isinstance(found, torch.Tensor):
                continue
            for tensor in (found, found.grad):
                if tensor is not None:
                    storage = tensor.untyped_storage()
                    storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())
