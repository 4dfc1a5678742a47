"""Small values that ranks tell each other, as JSON: reading it runs no code, as a pickle could."""

import json
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def broadcast_json(value: Any) -> Any:
    """The `value` of rank 0 on all ranks, as JSON gives it back; a collective.

    The values of all other ranks are not looked at. Numbers keep every bit; NaN and infinities too.
    """
    content = _encode(value if dist.get_rank() == 0 else None)
    length = _length(content)
    dist.broadcast(length, src=0)
    if dist.get_rank() != 0:
        content = torch.empty(int(length), dtype=torch.uint8, device=_device())
    dist.broadcast(content, src=0)
    return _decode(content)


def gather_json(value: Any) -> list[Any]:
    """The `value` of every rank, by rank, as JSON gives it back; on all ranks, a collective."""
    content = _encode(value)
    lengths = [_length(content) for _ in range(dist.get_world_size())]
    dist.all_gather(lengths, _length(content))
    sizes = [int(length) for length in lengths]
    padded = torch.zeros(max(sizes), dtype=torch.uint8, device=content.device)
    padded[: len(content)] = content
    gathered = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(gathered, padded)
    return [_decode(part[:size]) for part, size in zip(gathered, sizes, strict=True)]


def _encode(value: Any) -> Tensor:
    """[n] uint8."""
    content = bytearray(json.dumps(value).encode())
    return torch.frombuffer(content, dtype=torch.uint8).to(_device())


def _decode(content: Tensor) -> Any:
    return json.loads(content.cpu().numpy().tobytes())


def _length(content: Tensor) -> Tensor:
    return torch.tensor([len(content)], device=content.device)


def _device() -> torch.device:
    """Where the tensors of the process group are: NCCL takes those of the accelerator only."""
    if dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")
