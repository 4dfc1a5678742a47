"""Are the parameters that every tensor-parallel rank holds whole still equal to the bit?"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from model.parallel.grid import Grid
from model.parameters import ParameterSpec


def differing_replicas(model: nn.Module, grid: Grid) -> list[str]:
    """Names of replicated parameters whose bits differ between TP ranks; the same on all of them.

    One small all-reduce; cheap enough for every few hundred steps. Under ZeRO 3 the parts that
    data-parallel ranks hold are compared, each with those of its TP peers.
    """
    if grid.tp_size == 1:
        return []
    names, sums = [], []
    for name, parameter in model.named_parameters():
        spec: ParameterSpec = parameter.spec  # type: ignore[attr-defined]
        if spec.partition_dim is None:
            names.append(name)
            sums.append(checksum(_held(parameter, grid)))
    checksums = torch.stack(sums)
    # max(x) and max(~x) = ~min(x) in one collective: equal everywhere if and only if max = min.
    both = torch.stack([checksums, ~checksums])
    dist.all_reduce(both, op=dist.ReduceOp.MAX, group=grid.tp_group)
    differs = (both[0] != ~both[1]).tolist()
    return [name for name, different in zip(names, differs, strict=True) if different]


def _held(parameter: Any, grid: Grid) -> Tensor:
    """The values that this rank holds; under ZeRO 3 without what fills its part, which is never
    set."""
    if not hasattr(parameter, "ds_tensor"):
        whole: Tensor = parameter.detach()
        return whole
    part: Tensor = parameter.ds_tensor.detach()
    return part[: max(0, parameter.ds_numel - grid.dp_rank * part.numel())]


def checksum(tensor: Tensor) -> Tensor:
    """An int64 scalar that changes with any changed, swapped or moved bit (almost surely)."""
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    bits = tensor.contiguous().view(integers[tensor.element_size()]).flatten().to(torch.int64)
    # Odd weights: a change of one element always changes the sum modulo 2**64.
    weights = torch.arange(bits.numel(), device=bits.device) * 2_654_435_761 * 2 + 1
    return (bits * weights).sum()
