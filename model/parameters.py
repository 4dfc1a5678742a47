"""The facts of each parameter at every grid: full shape, sharding, initial values.

`declare` is the one place that writes these facts on a parameter, megatron's and DeepSpeed's
`tensor_model_parallel` among them: DeepSpeed's gradient norm is right only if that is True on the
sharded parameters and only there.
"""

import hashlib
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

Start = Literal["normal", "zeros", "ones"]


@dataclass(frozen=True)
class ParameterSpec:
    """One parameter as it is without tensor parallelism."""

    full_shape: tuple[int, ...]
    """The shape over all TP ranks, vocabulary padding not included."""
    partition_dim: int | None
    """The dimension that is cut over TP ranks, None where every rank holds the whole."""
    padded_size: int | None = None
    """Length of `partition_dim` with vocabulary padding, None where there is none."""
    start: Start = "normal"
    """How it is initialised: normal(0, initializer_range), zeros or ones."""
    zero_row: int | None = None
    """A row that starts at zero (the padding token's)."""
    matrices: tuple[int, ...] | None = None
    """A weight of a layer: it is made of equal blocks of rows, and this is how many rows of a block
    belong to each of its matrices. (1,): one matrix; (1, 1): gate and value of each inner unit;
    (g x d, d, d): g queries, key and value of each key/value head. None for what is no weight of a
    layer: embeddings, heads, biases, norms."""

    def local_range(self, tp_rank: int, tp_size: int) -> tuple[int, int]:
        """(start, length) of this rank's part of `partition_dim`, vocabulary padding included."""
        assert self.partition_dim is not None
        size = self.padded_size or self.full_shape[self.partition_dim]
        assert size % tp_size == 0, f"{size} is not divisible by tensor-parallel size {tp_size}"
        length = size // tp_size
        return tp_rank * length, length

    def saved_shape(self, tp_rank: int, tp_size: int) -> tuple[int, ...]:
        """The shape of this rank's shard without vocabulary padding: what is saved."""
        dim = self.partition_dim
        if dim is None:
            return self.full_shape
        start, length = self.local_range(tp_rank, tp_size)
        kept = max(0, min(length, self.full_shape[dim] - start))
        return (*self.full_shape[:dim], kept, *self.full_shape[dim + 1 :])


def declare(parameter: nn.Parameter, spec: ParameterSpec) -> None:
    """Writes `spec`, and what megatron-core and DeepSpeed read of it, on `parameter`."""
    parameter.spec = spec  # type: ignore[attr-defined]
    sharded = spec.partition_dim is not None
    parameter.tensor_model_parallel = sharded  # type: ignore[attr-defined]
    parameter.partition_dim = spec.partition_dim if sharded else -1  # type: ignore[attr-defined]
    parameter.partition_stride = 1  # type: ignore[attr-defined]


def parameter_specs(model: nn.Module) -> dict[str, ParameterSpec]:
    """The spec of every parameter by its canonical name, in the model's order."""
    return {name: parameter.spec for name, parameter in model.named_parameters()}  # type: ignore[attr-defined]


def shard_tensor(
    spec: ParameterSpec, full: Tensor, tp_rank: int, tp_size: int, padded: bool = True
) -> Tensor:
    """Rank `tp_rank`'s part of `full`, with zero rows as vocabulary padding if `padded`.

    Raises ValueError if the shape of `full` is not that of `spec`.
    """
    if tuple(full.shape) != spec.full_shape:
        raise ValueError(f"expected the shape {spec.full_shape}, got {tuple(full.shape)}")
    dim = spec.partition_dim
    if dim is None:
        return full
    start, length = spec.local_range(tp_rank, tp_size)
    start_in_full = min(start, full.shape[dim])
    kept = full.narrow(dim, start_in_full, min(length, full.shape[dim] - start_in_full))
    missing = length - kept.shape[dim]
    if missing == 0 or not padded:
        return kept
    filler_shape = [*kept.shape[:dim], missing, *kept.shape[dim + 1 :]]
    return torch.cat([kept, kept.new_zeros(filler_shape)], dim=dim)


def unpad_local(spec: ParameterSpec, local: Tensor, tp_rank: int, tp_size: int) -> Tensor:
    """`local` less its vocabulary padding: what is saved.

    Concatenated over TP ranks along `partition_dim`, these are the full tensor.
    """
    dim = spec.partition_dim
    if dim is None:
        return local
    return local.narrow(dim, 0, spec.saved_shape(tp_rank, tp_size)[dim])


def initialize(
    model: nn.Module, seed: int | None, standard_deviation: float, tp_rank: int, tp_size: int
) -> None:
    """Fills every parameter with its initial value, a function of (seed, name) at every TP size.

    `seed` None: with NaN, where other weights are loaded afterwards. Each rank draws the tensors of
    the whole model: 4 s of processor time for 10^9 values where it was measured.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if seed is None:
                parameter.fill_(torch.nan)
                continue
            spec: ParameterSpec = parameter.spec  # type: ignore[attr-defined]
            full = initial_tensor(spec, name, seed, standard_deviation)
            parameter.copy_(shard_tensor(spec, full, tp_rank, tp_size))


def initial_tensor(spec: ParameterSpec, name: str, seed: int, standard_deviation: float) -> Tensor:
    """The full initial value of one parameter, fp32, on the CPU."""
    if spec.start == "zeros":
        return torch.zeros(spec.full_shape)
    if spec.start == "ones":
        return torch.ones(spec.full_shape)
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    full = torch.empty(spec.full_shape).normal_(0.0, standard_deviation, generator=generator)
    if spec.zero_row is not None:
        full[spec.zero_row] = 0
    return full
