"""What is used of megatron-core, imported without what is not: half of a rank's start.

At import megatron-core decorates its fused functions with `torch.compile`, which loads torch's
whole compiler (1.5 s a rank) before any of them is called. Nothing here calls one of them.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch


def _as_it_is(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """In place of `torch.compile`, plain or with arguments: the function itself."""
    return function if function is not None else _as_it_is


@contextlib.contextmanager
def _light_imports() -> Iterator[None]:
    compile_, optional = torch.compile, "torch.distributed._tensor"
    is_absent = optional not in sys.modules
    torch.compile = _as_it_is  # type: ignore[assignment]
    if is_absent:
        sys.modules[optional] = None  # type: ignore[assignment]  # so that an import fails at once
    try:
        yield
    finally:
        torch.compile = compile_
        if is_absent:
            del sys.modules[optional]


with _light_imports():
    from megatron.core import ModelParallelConfig, parallel_state
    from megatron.core.tensor_parallel import layers
    from megatron.core.tensor_parallel.cross_entropy import vocab_parallel_cross_entropy
    from megatron.core.tensor_parallel.mappings import (
        copy_to_tensor_model_parallel_region,
        gather_from_sequence_parallel_region,
        gather_from_tensor_model_parallel_region,
        reduce_from_tensor_model_parallel_region,
        scatter_to_tensor_model_parallel_region,
    )

ColumnParallelLinear = layers.ColumnParallelLinear
RowParallelLinear = layers.RowParallelLinear
VocabParallelEmbedding = layers.VocabParallelEmbedding
linear_with_frozen_weight = layers.linear_with_frozen_weight
linear_with_grad_accumulation_and_async_allreduce = (
    layers.linear_with_grad_accumulation_and_async_allreduce
)

__all__ = [
    "ColumnParallelLinear",
    "ModelParallelConfig",
    "RowParallelLinear",
    "VocabParallelEmbedding",
    "copy_to_tensor_model_parallel_region",
    "gather_from_sequence_parallel_region",
    "gather_from_tensor_model_parallel_region",
    "layers",
    "linear_with_frozen_weight",
    "linear_with_grad_accumulation_and_async_allreduce",
    "parallel_state",
    "reduce_from_tensor_model_parallel_region",
    "scatter_to_tensor_model_parallel_region",
    "vocab_parallel_cross_entropy",
]
