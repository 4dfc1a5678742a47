"""The training state inside DeepSpeed's ZeRO optimizers: where it is, how it is read and set."""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from model.parallel.grid import Grid
from model.parameters import ParameterSpec, unpad_local
from pipeline.checkpoint.manifest import CheckpointManifest, tensor_key
from pipeline.checkpoint.reader import TensorReader
from pipeline.engine import deepspeed_compat
from pipeline.optim.layerwise_adam import LayerwiseAdam, WholeParameter
from pipeline.optim.optimizer import WEIGHT_KEY, OptimizerSettings
from pipeline.optim.whole_matrices import Piece

FLAT_PARTITIONS = (
    "fp32_groups_flat_partition",  # BF16_Optimizer: ZeRO 1 in bf16 with fp32 accumulation
    "single_partition_of_fp32_groups",  # DeepSpeedZeroOptimizer: ZeRO 1 and 2
    "fp32_partitioned_groups_flat",  # DeepSpeedZeroOptimizer_Stage3
)
"""The attributes of DeepSpeed's optimizers (0.19.8) that hold this rank's flat fp32 master weights,
one tensor per parameter group."""

logger = logging.getLogger(__name__)


class ZeroState:
    """Master weights and moments of the trained parameters; every method is a collective."""

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
        self._places = {
            piece.parameter: (partition, piece)
            for partition, pieces in self._pieces.items()
            for piece in pieces
        }
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

    def snapshot(self) -> dict[str, Tensor]:
        """Master weights and moments of this tensor-parallel rank, copied to host memory.

        Keys are `tensor_key(state key, parameter)`; only data-parallel rank 0 keeps them, all other
        ranks help to gather and get an empty dictionary. It reuses the memory of the previous
        snapshot: allocating gigabytes of pages takes longer than the copy.
        """
        self._link()
        for number, (name, parameter) in enumerate(self._named):
            for key in (WEIGHT_KEY, *self._settings.moments_of(self._specs[name])):
                local = self._full(number, parameter, key)
                if self._grid.dp_rank == 0:
                    unpadded = unpad_local(self._specs[name], local, *self._grid.tp_shard)
                    self._to_host(tensor_key(key, name), unpadded)
        if self._grid.device.type == "cuda":
            torch.cuda.synchronize()
        return dict(self._host)

    def _full(self, number: int, parameter: nn.Parameter, key: str) -> Tensor:
        """The fp32 tensor `key` of a parameter, gathered over data-parallel ranks."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        if self._grid.dp_size > 1:
            if key == WEIGHT_KEY:
                gathered: Tensor = safe_get_full_fp32_param(parameter)
            else:
                gathered = safe_get_full_optimizer_state(parameter, key)
            return gathered
        partition, piece = self._places[number]  # this rank holds all of it: no copy
        flat = partition if key == WEIGHT_KEY else self._zero.optimizer.state[partition][key]
        shape = getattr(parameter, "ds_shape", parameter.shape)  # ZeRO 3 leaves it empty itself
        return flat.narrow(0, piece.start, piece.length).view(shape)

    def _to_host(self, name: str, tensor: Tensor) -> None:
        if name not in self._host:
            self._host[name] = torch.empty(
                tensor.shape, dtype=tensor.dtype, pin_memory=torch.cuda.is_available()
            )
        self._host[name].copy_(tensor.detach(), non_blocking=True)

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
        for name, parameter in self._named:
            for key in (WEIGHT_KEY, *moments.get(name, ())):
                value = reader.local(key, name, self._specs[name], *self._grid.tp_shard)
                self._set_full(parameter, key, value.to(self._grid.device))

    def _partitions(self) -> list[Tensor]:
        """The flat fp32 tensors that the optimizer works on."""
        for name in FLAT_PARTITIONS:
            if hasattr(self._zero, name):
                return list(getattr(self._zero, name))
        raise AssertionError(f"{type(self._zero).__name__}: its fp32 partitions were not found")

    def _make_moments(self, optimizer_steps: int) -> None:
        for partition in self._partitions():
            state = self._zero.optimizer.state[partition]
            if self._settings.STEP_KEY is not None:
                steps = torch.tensor(float(optimizer_steps), device=partition.device)
                state[self._settings.STEP_KEY] = steps
            for key in self._moments_of(partition):
                state[key] = torch.zeros_like(partition)
        deepspeed_compat.link_optimizer_state(self._zero)

    def _moments_of(self, partition: Tensor) -> tuple[str, ...]:
        """The moments of a flat partition, whose parameters are all of one kind."""
        for piece in self._pieces[partition]:
            name, _ = self._named[piece.parameter]
            return self._settings.moments_of(self._specs[name])
        return self._settings.MOMENTS  # this rank holds none of its parameters

    def _link(self) -> None:
        """Makes the optimizer's state exist, and DeepSpeed find all of it."""
        if any(self._zero.optimizer.state.get(p) for p in self._partitions()):
            deepspeed_compat.link_optimizer_state(self._zero)
        else:
            self._make_moments(0)

    def _set_full(self, parameter: nn.Parameter, key: str, value: Tensor) -> None:
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        if hasattr(parameter, "ds_id"):
            deepspeed_compat.set_partitioned(
                parameter, None if key == WEIGHT_KEY else key, value, self._grid.dp_rank
            )
        elif key == WEIGHT_KEY:
            safe_set_full_fp32_param(parameter, value)
        else:
            safe_set_full_optimizer_state(parameter, value, key)

    def _locate(self) -> dict[Tensor, list[Piece]]:
        """The pieces of parameters in each of this rank's flat partitions."""
        partitions = self._partitions()
        pieces: dict[Tensor, list[Piece]] = {partition: [] for partition in partitions}
        for number, (_, parameter) in enumerate(self._named):
            if hasattr(parameter, "ds_id"):
                group, start, length = self._zero.grad_position[self._zero.get_param_id(parameter)]
                pieces[partitions[group]].append(Piece(number, start, length))
            elif parameter._hp_mapping is not None:  # type: ignore[attr-defined]
                fragment = parameter._hp_mapping.hp_fragment  # type: ignore[attr-defined]
                (owner,) = (
                    partition
                    for partition in partitions
                    if fragment.untyped_storage().data_ptr()
                    == partition.untyped_storage().data_ptr()
                )
                start = fragment.storage_offset() - owner.storage_offset()
                pieces[owner].append(Piece(number, start, fragment.numel()))
        return pieces

    def _wholes(self) -> list[WholeParameter]:
        """The sizes over all ranks, by number of the parameter."""
        wholes = []
        for name, _ in self._named:
            spec = self._specs[name]
            copies = self._grid.tp_size if spec.partition_dim is None else 1
            wholes.append(WholeParameter(torch.Size(spec.full_shape).numel(), copies, spec))
        return wholes
