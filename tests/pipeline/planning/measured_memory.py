"""What a rank holds while it trains: bytes of tensors and of its process."""

import gc
import time
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
    """Of all tensors of this process, each storage once: the smallest of a few readings.

    A thread of gloo may hold the tensor that it reduced for a moment after the call has returned.
    """
    readings = [_tensor_bytes_now()]
    for _ in range(5):
        time.sleep(0.1)
        readings.append(_tensor_bytes_now())
    return min(readings)


def _tensor_bytes_now() -> int:
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
