"""The training state inside DeepSpeed's ZeRO optimizers: where it is, how it is read and set."""

import logging
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from model.parallel.grid import Grid
from model.parameters import ParameterSpec
from pipeline.checkpoint.fragments import Fragment
from pipeline.checkpoint.manifest import CheckpointManifest, tensor_key
from pipeline.checkpoint.reader import TensorReader
from pipeline.optim.layerwise_adam import LayerwiseAdam, WholeParameter
from pipeline.optim.optimizer import WEIGHT_KEY, OptimizerSettings
from pipeline.optim.whole_matrices import Piece

FLAT_PARTITIONS = (
    "fp32_groups_flat_partition",  # BF16_Optimizer, see pipeline.engine.flat_gradients
    "single_partition_of_fp32_groups",  # DeepSpeedZeroOptimizer: ZeRO 2, and 1 with offloading
    "fp32_partitioned_groups_flat",  # DeepSpeedZeroOptimizer_Stage3
)
"""The attributes of DeepSpeed's optimizers (0.19.8) that hold this rank's flat fp32 master weights,
one tensor per parameter group."""

logger = logging.getLogger(__name__)


class ZeroState:
    """Master weights and moments of the trained parameters."""

    def __init__(
        self,
        zero: Any,
        settings: OptimizerSettings,
        named: list[tuple[str, nn.Parameter]],
        specs: Mapping[str, ParameterSpec],
        grid: Grid,
    ) -> None:
        """`zero` is DeepSpeed's optimizer, `settings` declares the state of the one that it wraps;
        `named` are the parameters that it trains."""
        self._zero = zero
        self._settings = settings
        self._named = named
        self._specs = specs
        self._grid = grid
        self._pieces = self._locate()
        self._host: dict[str, Tensor] = {}
        if isinstance(zero.optimizer, LayerwiseAdam):
            zero.optimizer.locate(self._pieces, self._wholes(), grid.tp_size)

    def optimizer_steps(self) -> int:
        """Optimizer steps taken so far, as the optimizer counts them; 0 where it does not."""
        step_key = self._settings.STEP_KEY
        for partition in self._partitions():
            state = self._zero.optimizer.state.get(partition)
            if state and step_key is not None:
                return int(state[step_key])
        return 0

    def snapshot(self) -> dict[str, Fragment]:
        """What this rank holds of master weights and moments, by parameter, copied to host memory.

        It reuses the memory of the previous snapshot: allocating gigabytes of pages takes longer
        than the copy.
        """
        if not any(self._zero.optimizer.state.get(p) for p in self._partitions()):
            self._make_moments(0)
        fragments = {}
        for partition, piece in self._held():
            name, _ = self._named[piece.parameter]
            spec = self._specs[name]
            shape = spec.saved_shape(*self._grid.tp_shard)
            length = min(piece.length, math.prod(shape) - piece.offset)
            if length <= 0:  # vocabulary padding
                continue
            tensors = {}
            for key in (WEIGHT_KEY, *self._settings.moments_of(spec)):
                values = self._flat(partition, key).narrow(0, piece.start, length)
                values = values.view(shape) if length == math.prod(shape) else values
                tensors[key] = self._to_host(tensor_key(key, name), values)
            fragments[name] = Fragment(piece.offset, tensors)
        if self._grid.device.type == "cuda":
            torch.cuda.synchronize()
        return fragments

    def _flat(self, partition: Tensor, key: str) -> Tensor:
        """The master weights or moments of a flat partition."""
        if key == WEIGHT_KEY:
            return partition
        moments: Tensor = self._zero.optimizer.state[partition][key]
        return moments

    def _held(self) -> Iterator[tuple[Tensor, Piece]]:
        """This rank's pieces of parameters, each with its partition."""
        for partition, pieces in self._pieces.items():
            for piece in pieces:
                if piece.length:
                    yield partition, piece

    def _to_host(self, name: str, tensor: Tensor) -> Tensor:
        if name not in self._host:
            self._host[name] = torch.empty(
                tensor.shape, dtype=tensor.dtype, pin_memory=torch.cuda.is_available()
            )
        return self._host[name].copy_(tensor.detach(), non_blocking=True)

    @torch.no_grad()
    def restore(self, reader: TensorReader, manifest: CheckpointManifest) -> None:
        """Sets master weights, moments and the optimizer's step count from a checkpoint.

        Where the checkpoint lacks moments that this optimizer needs (it was written with a
        different one), all moments start at zero, like its step count.

        The model must have been built with the checkpoint's weights, so that the low-precision
        copies agree with the master weights already.
        """
        moments = {name: self._settings.moments_of(self._specs[name]) for name, _ in self._named}
        steps = manifest.optimizer_step
        missing = sorted(
            {key for name in moments for key in moments[name] if not reader.has(key, name)}
        )
        if missing:
            logger.warning(
                "the checkpoint of step %d was written with a different optimizer and has no %s: "
                "the optimizer state starts at zero",
                manifest.step,
                ", ".join(missing),
            )
            moments, steps = {}, 0
        self._make_moments(steps)
        for partition, piece in self._held():
            name, _ = self._named[piece.parameter]
            spec = self._specs[name]
            for key in (WEIGHT_KEY, *moments.get(name, ())):
                values = reader.local_piece(
                    (key, name), spec, self._grid.tp_shard, piece.offset, piece.length
                )
                self._flat(partition, key).narrow(0, piece.start, piece.length).copy_(values)

    def _partitions(self) -> list[Tensor]:
        """The flat fp32 tensors that the optimizer works on."""
        for name in FLAT_PARTITIONS:
            if hasattr(self._zero, name):
                return list(getattr(self._zero, name))
        raise AssertionError(f"{type(self._zero).__name__}: its fp32 partitions were not found")

    def _make_moments(self, optimizer_steps: int) -> None:
        in_host_memory = isinstance(self._zero.optimizer, LayerwiseAdam)
        for partition in self._partitions():
            state = self._zero.optimizer.state[partition]
            if self._settings.STEP_KEY is not None:
                steps = torch.tensor(float(optimizer_steps))
                if not in_host_memory:
                    steps = steps.to(partition.device)
                state[self._settings.STEP_KEY] = steps
            for key in self._moments_of(partition):
                state[key] = torch.zeros_like(partition)

    def _moments_of(self, partition: Tensor) -> tuple[str, ...]:
        """The moments of a flat partition, whose parameters are all of one kind."""
        for piece in self._pieces[partition]:
            name, _ = self._named[piece.parameter]
            return self._settings.moments_of(self._specs[name])
        return self._settings.MOMENTS  # this rank holds none of its parameters

    def _locate(self) -> dict[Tensor, list[Piece]]:
        """The pieces of parameters in each of this rank's flat partitions."""
        partitions = self._partitions()
        pieces: dict[Tensor, list[Piece]] = {partition: [] for partition in partitions}
        for number, (_, parameter) in enumerate(self._named):
            if hasattr(parameter, "ds_id"):
                group, start, length = self._zero.grad_position[self._zero.get_param_id(parameter)]
                # All ranks hold as much of it, the last ones zeros beyond its end.
                offset = min(length * self._grid.dp_rank, parameter.ds_numel)  # type: ignore[attr-defined]
                pieces[partitions[group]].append(Piece(number, start, length, offset))
            elif parameter._hp_mapping is not None:  # type: ignore[attr-defined]
                mapping = parameter._hp_mapping  # type: ignore[attr-defined]
                fragment, offset = mapping.hp_fragment, mapping.lp_fragment_address.start
                (owner,) = (
                    partition
                    for partition in partitions
                    if fragment.untyped_storage().data_ptr()
                    == partition.untyped_storage().data_ptr()
                )
                start = fragment.storage_offset() - owner.storage_offset()
                pieces[owner].append(Piece(number, start, fragment.numel(), offset))
        return pieces

    def _wholes(self) -> list[WholeParameter]:
        """The sizes over all ranks, by number of the parameter."""
        wholes = []
        for name, _ in self._named:
            spec = self._specs[name]
            copies = self._grid.tp_size if spec.partition_dim is None else 1
            wholes.append(WholeParameter(torch.Size(spec.full_shape).numel(), copies, spec))
        return wholes
