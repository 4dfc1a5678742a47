"""Reads the tensors of a checkpoint at any grid (checkpoint resharding without a conversion step).

Per parameter it holds the fp32 master weight and the optimizer's moments, as tensor-parallel shards
that concatenate to the full tensor and that carry no vocabulary padding; each shard is whole in one
safetensors file, or in fragments in the files of all data-parallel ranks. A rank of the new grid
reads only what it needs, so tensor- and data-parallel sizes and ZeRO stage may all differ from
those that wrote the checkpoint.

`pipeline.checkpoint.manifest` describes the folder, `pipeline.checkpoint.writer` writes it.
"""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from configs.load import UserError
from data_prep.dataset.files import is_missing, open_inside
from model.parallel.grid import Grid
from model.parameters import ParameterSpec, parameter_specs
from pipeline.checkpoint.discriminator import SUMMANDS, WORD
from pipeline.checkpoint.fragments import FRAGMENTS_NAME, FragmentedShard, read_table
from pipeline.checkpoint.manifest import (
    Checkpoint,
    CheckpointManifest,
    tensor_key,
)
from pipeline.checkpoint.records import FileRecord, ParameterRecord
from pipeline.checkpoint.tensor_file import TensorFile
from pipeline.optim.optimizer import WEIGHT_KEY


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
        """Raises UserError if files of whole shards, or the table of fragments, are damaged.

        Files of fragments are opened when they are first read. Reading raises UserError for a file
        that is missing, became shorter or cannot be read.
        """
        manifest = checkpoint.manifest
        self._parameters = manifest.parameters
        self._shards: Sequence[TensorFile | FragmentedShard]
        if manifest.fragments is None:
            self._shards = [_open(checkpoint.path, record) for record in manifest.files]
            for state_key in manifest.state_keys:
                for name, record in self._parameters.items():
                    self._check_shape(tensor_key(state_key, name), record)
        else:
            self._shards = _fragmented_shards(checkpoint)
            for name, record in self._parameters.items():
                self._check_shape(tensor_key(WEIGHT_KEY, name), record)

    def has(self, state_key: str, parameter: str) -> bool:
        """Whether the checkpoint holds a tensor: not every optimizer keeps all of its moments of
        every parameter."""
        return tensor_key(state_key, parameter) in self._shards[0]

    def full(self, state_key: str, parameter: str) -> torch.Tensor:
        """The full tensor, fp32, without padding."""
        if self._is_sum(state_key, parameter):
            first, second = (self.full(state_key, summand) for summand in SUMMANDS)
            return first + second
        record = self._parameters[parameter]
        key = tensor_key(state_key, parameter)
        if record.partition_dim is None:
            return self._whole(key)
        return torch.cat([shard.read(key) for shard in self._shards], record.partition_dim)

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
        for shard in self._shards:
            size = shard.shape(key)[dim]
            first, last = max(start, offset), min(start + length, offset + size)
            if first < last:
                piece = shard.read_slice(key, dim, first - offset, last - offset)
                result.narrow(dim, first - start, last - first).copy_(piece)
            offset += size
        return result

    def local_piece(
        self,
        key: tuple[str, str],
        spec: ParameterSpec,
        tp_shard: tuple[int, int],
        start: int,
        length: int,
    ) -> torch.Tensor:
        """The elements [start, start + length) of the flat shard of a rank, fp32.

        `key`: (state key, parameter), `tp_shard`: (rank, size). Vocabulary padding and what lies
        beyond the shard are zeros. Where the same tensor-parallel size wrote the checkpoint,
        nothing else is read.
        """
        shard = self._same_shard(*key, spec, tp_shard)
        result = torch.zeros(length)
        if shard is None:
            found = self.local(*key, spec, *tp_shard).flatten()[start : start + length]
        else:
            name = tensor_key(*key)
            saved = math.prod(shard.shape(name))
            found = shard.read_flat(name, min(start, saved), min(start + length, saved))
        result[: len(found)] = found
        return result

    def _same_shard(
        self, state_key: str, parameter: str, spec: ParameterSpec, tp_shard: tuple[int, int]
    ) -> "TensorFile | FragmentedShard | None":
        """What holds exactly the shard of a rank, None if no tensor-parallel rank saved that."""
        if self._is_sum(state_key, parameter):
            return None
        dim, (tp_rank, tp_size) = spec.partition_dim, tp_shard
        if dim is None:
            return self._shards[0]
        name = tensor_key(state_key, parameter)
        shapes = [shard.shape(name) for shard in self._shards]
        wanted = [spec.saved_shape(rank, tp_size) for rank in range(tp_size)]
        return self._shards[tp_rank] if shapes == wanted else None

    def _is_sum(self, state_key: str, parameter: str) -> bool:
        """Whether a weight is stored as its summands, see `pipeline.checkpoint.discriminator`."""
        return state_key == WEIGHT_KEY and parameter == WORD and not self.has(state_key, parameter)

    def _check_shape(self, key: str, record: ParameterRecord) -> None:
        """Raises UserError unless the parts of a tensor make the shape of the manifest."""
        shapes = [shard.shape(key) for shard in self._shards if key in shard]
        dim = record.partition_dim
        if dim is None and isinstance(self._shards[0], FragmentedShard):
            shapes = shapes[:1]  # of replicated parameters, one tensor-parallel rank writes
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
        return self._shards[0].read(key)


def _fragmented_shards(checkpoint: Checkpoint) -> list[FragmentedShard]:
    """By tensor-parallel rank of those that wrote it."""
    path, manifest = checkpoint.path, checkpoint.manifest
    assert manifest.fragments is not None
    table = read_table(path, manifest.fragments.path)
    opened: dict[int, TensorFile] = {}

    def open_file(number: int) -> TensorFile:
        if number not in opened:
            opened[number] = _open(path, manifest.files[number])
        return opened[number]

    if any(file >= len(manifest.files) for of in table.values() for file, _, _ in of.pieces):
        raise UserError(
            f"{path / FRAGMENTS_NAME}: damaged checkpoint: it names files that are not in the "
            "manifest"
        )
    return [
        FragmentedShard(open_file, table, manifest.parameters, rank, manifest.tp_size, path)
        for rank in range(manifest.tp_size)
    ]


def _open(folder: Path, record: FileRecord) -> TensorFile:
    path = folder / record.path
    try:
        file = open_inside(folder, record.path)
    except OSError as error:
        if not is_missing(error):
            raise
        raise UserError(f"{path}: damaged checkpoint: {error.strerror}") from None
    size = os.fstat(file.fileno()).st_size
    if size != record.bytes:
        raise UserError(f"{path}: damaged checkpoint: {record.bytes} bytes expected, {size} found")
    return TensorFile(file)


def load_weights(model: nn.Module, reader: TensorReader, grid: Grid) -> None:
    """Copies this rank's shards of a checkpoint's fp32 weights into `model`.

    A collective: each parameter is read by one data-parallel rank, which sends it to the others.
    """
    specs = parameter_specs(model)
    with torch.no_grad():
        for number, (name, parameter) in enumerate(model.named_parameters()):
            reading_rank = number % grid.dp_size
            if grid.dp_rank == reading_rank:
                parameter.copy_(reader.local(WEIGHT_KEY, name, specs[name], *grid.tp_shard))
            if grid.dp_size > 1:
                source = grid.get_data_parallel_group_ranks()[reading_rank]
                dist.broadcast(parameter.data, source, group=grid.dp_group)
