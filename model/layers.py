"""The parts of a layer: tensor-parallel linears and embedding on megatron-core, norms, the MLP.

T tokens (all rows of the micro-batch in one line: B x S), H hidden, F inner width of the MLP,
V vocabulary; ``/tp`` sharded over tensor-parallel ranks. Hidden states are [T, H], and [T/tp, H]
between the blocks under sequence parallelism.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import ModelConfig
from model.layer_parts import NormTensors
from model.parallel.grid import Grid
from model.parallel.megatron import (
    ColumnParallelLinear,
    ModelParallelConfig,
    RowParallelLinear,
    VocabParallelEmbedding,
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
    gather_from_tensor_model_parallel_region,
    linear_with_frozen_weight,
    linear_with_grad_accumulation_and_async_allreduce,
    reduce_from_tensor_model_parallel_region,
    scatter_to_tensor_model_parallel_region,
)
from model.parameters import ParameterSpec, declare

# ruff's one-door rule: the rest of model/ takes megatron-core's mappings from here.
gather_rows = gather_from_sequence_parallel_region
gather_columns = gather_from_tensor_model_parallel_region
scatter_columns = scatter_to_tensor_model_parallel_region
reduce_columns = reduce_from_tensor_model_parallel_region


def _megatron_config(grid: Grid) -> ModelParallelConfig:
    return ModelParallelConfig(
        tensor_model_parallel_size=grid.tp_size,
        sequence_parallel=grid.sequence_parallel,
        use_cpu_initialization=True,
        perform_initialization=False,
        params_dtype=torch.float32,
    )


def _no_init(weight: Tensor) -> None:
    raise AssertionError("initial values come from model.parameters.initialize")


class ReplicatedGradient(nn.Module):
    """Base of modules whose parameters every rank holds, while each may see a part of the tokens.

    Under sequence parallelism each rank's gradient is then a part of the sum. DeepSpeed does not
    add these up over TP ranks, so the graph does: `shared(parameter)` is the parameter, and its
    gradient is all-reduced.
    """

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.tp_group = grid.tp_group
        self.reduces_gradient = grid.sequence_parallel

    def shared(self, parameter: Tensor) -> Tensor:
        """`parameter`, its gradient summed over TP ranks where they see different tokens."""
        if not self.reduces_gradient:
            return parameter
        result: Tensor = copy_to_tensor_model_parallel_region(parameter, group=self.tp_group)
        return result


class ColumnLinear(ColumnParallelLinear):  # type: ignore[misc]  # megatron-core is untyped
    """[T, in] (or [T/tp, in] under sequence parallelism) -> [T, out/tp]; the output is sharded."""

    def __init__(
        self,
        grid: Grid,
        in_size: int,
        out_size: int,
        has_bias: bool = True,
        matrices: tuple[int, ...] = (1,),
        goes_apart: bool = False,
    ) -> None:
        """`matrices` are what the weight is made of, see `ParameterSpec.matrices`. `goes_apart`:
        whether `apart` is used."""
        super().__init__(
            in_size,
            out_size,
            config=_megatron_config(grid),
            init_method=_no_init,
            bias=has_bias,
            skip_bias_add=goes_apart,
            tp_group=grid.tp_group,
        )
        spec = ParameterSpec((out_size, in_size), partition_dim=0, matrices=matrices)
        declare(self.weight, spec)
        if has_bias:
            declare(self.bias, ParameterSpec((out_size,), partition_dim=0, start="zeros"))

    def forward(self, x: Tensor) -> Tensor:
        if self.tp_group.size() == 1:  # adds the bias in the product; megatron-core's takes two
            return F.linear(x, self.weight, self.bias)
        output, bias = super().forward(x)
        result: Tensor = output if bias is None else output + bias
        return result

    def apart(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """What `forward` adds up on several ranks: the product and the bias."""
        output, bias = super().forward(x)
        return output, bias


class RowLinear(RowParallelLinear):  # type: ignore[misc]  # megatron-core is untyped
    """[T, in/tp] -> [T, out] (or [T/tp, out] under sequence parallelism), summed over TP ranks."""

    def __init__(self, grid: Grid, in_size: int, out_size: int, has_bias: bool = True) -> None:
        super().__init__(
            in_size,
            out_size,
            config=_megatron_config(grid),
            init_method=_no_init,
            bias=has_bias,
            input_is_parallel=True,
            skip_bias_add=True,
            tp_group=grid.tp_group,
        )
        self.reduces_bias_gradient = grid.sequence_parallel
        spec = ParameterSpec((out_size, in_size), partition_dim=1, matrices=(1,))
        declare(self.weight, spec)
        if has_bias:
            declare(self.bias, ParameterSpec((out_size,), partition_dim=None, start="zeros"))

    def forward(self, x: Tensor, x_is_whole: bool = False) -> Tensor:
        """`x_is_whole`: `x` is [N, in] on every rank, and so is the output [N, out]."""
        if self.tp_group.size() == 1:
            return F.linear(x, self.weight, self.bias)
        if x_is_whole:
            mine = scatter_columns(x, group=self.tp_group)  # [N, in/tp]
            summed = reduce_columns(F.linear(mine, self.weight), group=self.tp_group)
            whole: Tensor = summed if self.bias is None else summed + self.bias
            return whole
        output, bias = self.apart(x)
        return output if bias is None else output + bias

    def apart(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """What `forward` adds up on several ranks: the product and the bias."""
        output, bias = super().forward(x)
        if bias is not None and self.reduces_bias_gradient:
            bias = copy_to_tensor_model_parallel_region(bias, group=self.tp_group)
        return output, bias


class VocabularyEmbedding(VocabParallelEmbedding):  # type: ignore[misc]  # untyped
    """A matrix [V, H] that maps tokens to vectors, vectors to logits or, tied, does both.

    Both uses go through `forward`, so that ZeRO 3 gathers the weight for either.
    """

    def __init__(
        self,
        grid: Grid,
        config: ModelConfig,
        vocab_size: int,
        padded_size: int,
        reads: bool = True,
    ) -> None:
        """`reads`: whether it maps tokens to vectors; if not, padding is a token as any."""
        super().__init__(
            padded_size,
            config.embedding_width,
            init_method=_no_init,
            reduce_scatter_embeddings=grid.sequence_parallel,
            config=_megatron_config(grid),
            tp_group=grid.tp_group,
        )
        spec = ParameterSpec(
            (vocab_size, config.embedding_width),
            partition_dim=0,
            padded_size=padded_size,
            zero_row=config.pad_token_id if reads and config.pad_token_id < vocab_size else None,
        )
        declare(self.weight, spec)

    def forward(self, x: Tensor, logits_bias: Tensor | None = None) -> Tensor:
        """Tokens [T] -> [T(/tp), H]; or, with `logits_bias` [V/tp], hidden [N, H] -> [N, V/tp]."""
        if logits_bias is None:
            embedded: Tensor = super().forward(x[None, :])  # [1, T, H], or [T/tp, 1, H]
            return embedded.view(-1, self.embedding_dim)
        if self.tp_group.size() == 1:
            return F.linear(x, self.weight, logits_bias)
        settings = {
            "gradient_accumulation_fusion": False,
            "allreduce_dgrad": True,
            "sequence_parallel": False,
            "tp_group": self.tp_group,
        }
        if not self.weight.requires_grad:
            # megatron-core's linear with a frozen weight gives the bias no gradient either.
            frozen: Tensor = linear_with_frozen_weight(x, self.weight, None, **settings)
            return frozen + logits_bias
        logits: Tensor = linear_with_grad_accumulation_and_async_allreduce(
            x, self.weight, logits_bias, **settings
        )
        return logits


class ReplicatedEmbedding(ReplicatedGradient):
    """A small matrix [rows, H] that every rank holds whole: positions, segments."""

    def __init__(
        self,
        grid: Grid,
        config: ModelConfig,
        num_rows: int,
        zero_row: int | None = None,
    ) -> None:
        super().__init__(grid)
        shape = (num_rows, config.embedding_width)
        self.weight = nn.Parameter(torch.empty(shape))
        declare(self.weight, ParameterSpec(shape, partition_dim=None, zero_row=zero_row))

    def forward(self, ids: Tensor) -> Tensor:
        """ids [...] -> [..., H]."""
        return F.embedding(ids, self.shared(self.weight))


class Norm(ReplicatedGradient):
    """LayerNorm or RMSNorm over the last dimension."""

    def __init__(
        self,
        grid: Grid,
        config: ModelConfig,
        size: int | None = None,
        of_local_heads: bool = False,
    ) -> None:
        """`size` is the last dimension, hidden_size if not given.

        `of_local_heads`: it normalises parts of attention heads, which are sharded over TP ranks.
        """
        super().__init__(grid)
        if of_local_heads:
            self.reduces_gradient = grid.tp_size > 1
        shape = (config.hidden_size if size is None else size,)
        self.eps = config.layer_norm_eps
        self.weight = nn.Parameter(torch.empty(shape))
        declare(self.weight, ParameterSpec(shape, partition_dim=None, start="ones"))
        self.is_rms = config.norm.type == "rms_norm"
        if config.bias.norm and not self.is_rms:
            self.bias = nn.Parameter(torch.empty(shape))
            declare(self.bias, ParameterSpec(shape, partition_dim=None, start="zeros"))
        else:
            self.register_parameter("bias", None)

    def forward(self, x: Tensor) -> Tensor:
        return self.tensors()(x)

    def tensors(self) -> NormTensors:
        """What it computes with."""
        weight = self.shared(self.weight)
        bias = None if self.bias is None else self.shared(self.bias)
        return NormTensors(weight, bias, self.eps, self.is_rms)


class ReplicatedLinear(nn.Module):
    """A linear layer that every rank computes whole, for heads: [..., in] -> [..., out]."""

    def __init__(self, in_size: int, out_size: int, has_bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_size, in_size))
        declare(self.weight, ParameterSpec((out_size, in_size), partition_dim=None))
        self.register_parameter("bias", None)
        if has_bias:
            self.bias = nn.Parameter(torch.empty(out_size))
            declare(self.bias, ParameterSpec((out_size,), partition_dim=None, start="zeros"))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)
