"""Counts what a block of code computes: bytes of operators, operations, messages."""

from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

NO_TRAFFIC = {
    *("view", "permute", "transpose", "expand", "slice", "select", "unsqueeze", "squeeze"),
    *("detach", "alias", "_unsafe_view", "t", "as_strided", "unbind", "split", "empty"),
    *("split_with_sizes", "empty_like", "new_empty", "lift_fresh", "unflatten"),
}
"""Views and allocations."""
MATRIX_PRODUCTS = ("mm", "addmm", "bmm")


class CountedOperators(TorchDispatchMode):
    """In this block, operators add their inputs and outputs to the counts."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.traffic_bytes = 0
        """Of all operators but products of matrices and messages."""
        self.matrix_flops = 0
        self.messages: Counter[str] = Counter()
        """Bytes of the tensors that messages send, by their kind and number format."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        if str(func).startswith("c10d"):
            # The smaller tensors of an all-gather or reduce-scatter are a rank's share.
            sent = max(map(_tensor_bytes, args))
            self.messages[f"{name} {given[0].dtype}"] += sent
        elif name in MATRIX_PRODUCTS:
            self.matrix_flops += 2 * result.numel() * given[-1].shape[-2]
        elif name not in NO_TRAFFIC:
            leaves = tree_leaves((args, kwargs, result))
            tensors = {id(x): x for x in leaves if isinstance(x, torch.Tensor)}
            self.traffic_bytes += sum(x.numel() * x.element_size() for x in tensors.values())
        return result


def _tensor_bytes(argument: Any) -> int:
    """Of a tensor, or of all in a list."""
    leaves = [x for x in tree_leaves(argument) if isinstance(x, torch.Tensor)]
    return sum(x.numel() * x.element_size() for x in leaves)
