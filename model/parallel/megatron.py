"""What is used of megatron-core: layers, mappings and process groups, no fused functions."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def _nothing_compiled() -> Iterator[None]:
    """In this block `torch.compile` gives back the function it gets.

    Reason: megatron-core's modules decorate their fused functions with it (`jit_fuser` in
    megatron/core/jit.py, 0.16.1), and the decorator alone imports Dynamo and Inductor: a quarter of
    the processor time of a rank's start. None of these functions is used here.
    Remove when: `import megatron.core` leaves `torch._inductor` alone.
    """
    compile_of_torch = torch.compile

    def as_it_is(model: Callable[..., Any] | None = None, **_: Any) -> Callable[..., Any]:
        return model if model is not None else lambda decorated: decorated

    torch.compile = as_it_is
    try:
        yield
    finally:
        torch.compile = compile_of_torch


with _nothing_compiled():
    from megatron.core import ModelParallelConfig, parallel_state
    from megatron.core.tensor_parallel import layers
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
]
