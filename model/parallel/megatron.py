"""What is used of megatron-core: layers, mappings and process groups, no fused functions."""

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
