"""Reads the tensors of a checkpoint at any grid (checkpoint resharding without a conversion step).

There is one safetensors file per tensor-parallel rank. Per parameter it holds the fp32 master
weight and the optimizer's moments, as shards that concatenate to the full tensor and that carry no
vocabulary padding. A rank of the new grid reads only the slices that it needs, so tensor- and
data-parallel sizes and ZeRO stage may all differ from those that wrote the checkpoint.

`pipeline.checkpoint.manifest` describes the folder, `pipeline.checkpoint.writer` writes it.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from configs.load import UserError
from data_prep.dataset.files import open_inside
from model.parallel.grid import Grid
from model.parameters import ParameterSpec, parameter_specs
from pipeline.checkpoint.discriminator import SUMMANDS, WORD
from pipeline.checkpoint.manifest import (
    Checkpoint,
    CheckpointManifest,
    tensor_key,
)
from pipeline.checkpoint.records import FileRecord, ParameterRecord
from pipeline.checkpoint.tensor_file import TensorFile


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
        """Opens the files; raises UserError if one is missing, is damaged or differs in size.

        Reading raises UserError for a file that became shorter or cannot be read.
        """
        self._parameters = checkpoint.manifest.parameters
        self._files = [_open(checkpoint.path, record) for record in checkpoint.manifest.files]
        for state_key in checkpoint.manifest.state_keys:
            for name, record in self._parameters.items():
                self._check_shape(tensor_key(state_key, name), record)

    def has(self, state_key: str, parameter: str) -> bool:
        """Whether the checkpoint holds a tensor: not every optimizer keeps all of its moments of
        every parameter."""
        return tensor_key(state_key, parameter) in self._files[0]

    def full(self, state_key: str, parameter: str) -> torch.Tensor:
        """The full tensor, fp32, without padding."""
        if self._is_sum(state_key, parameter):
            first, second = (self.full(state_key, summand) for summand in SUMMANDS)
            return first + second
        record = self._parameters[parameter]
        key = tensor_key(state_key, parameter)
        if record.partition_dim is None:
            return self._whole(key)
        return torch.cat([file.read(key) for file in self._files], record.partition_dim)

    def local(
        self, state_key: str, parameter: str, spec: ParameterSpec, tp_rank: int, tp_size: int
    ) -> torch.Tensor:
        """Rank `tp_rank`'s shard, fp32, with zeros for vocabulary padding; reads nothing else."""
        if self._is_sum(state_key, parameter):
            parts = (self.local(state_key, name, spec, tp_rank, tp_size) for name in SUMMANDS)
            return sum(parts, torch.zeros(()))
        key = tensor_key(state_key, parameter)
        dim = spec.partition_dim
        if dim is None:
            return self._whole(key)
        start, length = spec.local_range(tp_rank, tp_size)
        shape = [*spec.full_shape[:dim], length, *spec.full_shape[dim + 1 :]]
        result = torch.zeros(shape)
        offset = 0
        for file in self._files:
            size = file.shape(key)[dim]
            first, last = max(start, offset), min(start + length, offset + size)
            if first < last:
                piece = file.read_slice(key, dim, first - offset, last - offset)
                result.narrow(dim, first - start, last - first).copy_(piece)
            offset += size
        return result

    def _is_sum(self, state_key: str, parameter: str) -> bool:
        """Whether a weight is stored as its summands, see `pipeline.checkpoint.discriminator`."""
        return state_key == "weight" and parameter == WORD and not self.has(state_key, parameter)

    def _check_shape(self, key: str, record: ParameterRecord) -> None:
        """Raises UserError unless the parts of a tensor make the shape of the manifest."""
        shapes = [file.shape(key) for file in self._files if key in file]
        dim = record.partition_dim
        if shapes and dim is not None and all(len(shape) > dim for shape in shapes):
            whole = sum(shape[dim] for shape in shapes)
            shapes = [(*shape[:dim], whole, *shape[dim + 1 :]) for shape in shapes]
        if any(shape != record.shape for shape in shapes):
            raise UserError(
                f"damaged checkpoint: {key}: the shapes {shapes} in its files do not make "
                f"{record.shape}"
            )

    def _whole(self, key: str) -> torch.Tensor:
        """A tensor that every tensor-parallel rank holds."""
        return self._files[0].read(key)


def _open(folder: Path, record: FileRecord) -> TensorFile:
    path = folder / record.path
    try:
        file = open_inside(folder, record.path)
    except OSError as error:
        raise UserError(f"{path}: damaged checkpoint: {error.strerror}") from None
    size = os.fstat(file.fileno()).st_size
    if size != record.bytes:
        raise UserError(f"{path}: damaged checkpoint: {record.bytes} bytes expected, {size} found")
    return TensorFile(file)


def load_weights(model: nn.Module, reader: TensorReader, grid: Grid) -> None:
    """Copies this rank's shards of a checkpoint's fp32 weights into `model`."""
    specs = parameter_specs(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            local = reader.local("weight", name, specs[name], *grid.tp_shard)
            parameter.copy_(local)
