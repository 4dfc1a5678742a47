"""Reads the tensors of a checkpoint at any grid (checkpoint resharding without a conversion step).

There is one safetensors file per tensor-parallel rank. Per parameter it holds the fp32 master
weight and the optimizer's moments, as shards that concatenate to the full tensor and that carry no
vocabulary padding. A rank of the new grid reads only the slices that it needs, so tensor- and
data-parallel sizes and ZeRO stage may all differ from those that wrote the checkpoint.

`pipeline.checkpoint.manifest` describes the folder, `pipeline.checkpoint.writer` writes it.
"""

from collections.abc import Mapping
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from configs.load import UserError
from model.parallel.grid import Grid
from model.parameters import ParameterSpec, parameter_specs
from pipeline.checkpoint.manifest import Checkpoint, CheckpointManifest, tensor_key


def check_checkpoint(
    manifest: CheckpointManifest, specs: Mapping[str, ParameterSpec], tokenizer_sha256: str
) -> None:
    """Raises UserError that names every difference between a checkpoint and this model."""
    errors = [f"no parameter {name}" for name in sorted(specs.keys() - manifest.parameters.keys())]
    errors += [
        f"parameter {name}, which this model does not have"
        for name in sorted(manifest.parameters.keys() - specs.keys())
    ]
    for name in sorted(specs.keys() & manifest.parameters.keys()):
        saved, wanted = manifest.parameters[name].shape, specs[name].full_shape
        if saved != wanted:
            errors.append(f"{name} has the shape {list(saved)}, this model needs {list(wanted)}")
    if manifest.tokenizer_sha256 != tokenizer_sha256:
        errors.append("it was trained with a different tokenizer")
    if errors:
        raise UserError(
            f"the checkpoint of step {manifest.step} does not fit this model:\n"
            + "\n".join(f"  {error}" for error in errors)
        )


class TensorReader:
    """Reads the tensors of a checkpoint, in full or as shards of any tensor-parallel size."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._parameters = checkpoint.manifest.parameters
        self._files: list[Any] = [  # safetensors has no types
            safe_open(checkpoint.path / record.path, framework="pt")
            for record in checkpoint.manifest.files
        ]

    def full(self, state_key: str, parameter: str) -> torch.Tensor:
        """The full tensor, fp32, without padding."""
        record = self._parameters[parameter]
        key = tensor_key(state_key, parameter)
        if record.partition_dim is None:
            return self._whole(key)
        return torch.cat([file.get_tensor(key) for file in self._files], record.partition_dim)

    def local(
        self, state_key: str, parameter: str, spec: ParameterSpec, tp_rank: int, tp_size: int
    ) -> torch.Tensor:
        """Rank `tp_rank`'s shard, fp32, with zeros for vocabulary padding; reads nothing else."""
        key = tensor_key(state_key, parameter)
        dim = spec.partition_dim
        if dim is None:
            return self._whole(key)
        start, length = spec.local_range(tp_rank, tp_size)
        shape = [*spec.full_shape[:dim], length, *spec.full_shape[dim + 1 :]]
        result = torch.zeros(shape)
        offset = 0
        for file in self._files:
            piece = file.get_slice(key)
            size = piece.get_shape()[dim]
            first, last = max(start, offset), min(start + length, offset + size)
            if first < last:
                window = [slice(None)] * dim + [slice(first - offset, last - offset)]
                result.narrow(dim, first - start, last - first).copy_(piece[tuple(window)])
            offset += size
        return result

    def _whole(self, key: str) -> torch.Tensor:
        """A tensor that every tensor-parallel rank holds."""
        tensor: torch.Tensor = self._files[0].get_tensor(key)
        return tensor


def load_weights(model: nn.Module, reader: TensorReader, grid: Grid) -> None:
    """Copies this rank's shards of a checkpoint's fp32 weights into `model`."""
    specs = parameter_specs(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            local = reader.local("weight", name, specs[name], *grid.tp_shard)
            parameter.copy_(local)
