"""The training state inside DeepSpeed's ZeRO optimizers: where it lies, how it is read and set.

Facts about this DeepSpeed (0.19.8) that the code here rests on, each found by running it:
- ``safe_get_full_optimizer_state`` knows only the first parameter group until the links between
  parameters and optimizer state are made again after the optimizer's first step.
- ``safe_set_full_*`` fails under ZeRO 3 for parameters that do not divide by the ranks; the local
  partition is set instead.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from model.parallel.grid import Grid
from model.parameters import ParameterSpec, unpad_local
from pipeline.checkpoint.manifest import MOMENTS, STATE_KEYS, tensor_key
from pipeline.checkpoint.reader import TensorReader
from pipeline.optim.layerwise_adam import LayerwiseAdam, Piece, WholeParameter

FLAT_PARTITIONS = (
    "fp32_groups_flat_partition",  # BF16_Optimizer: ZeRO 1 in bf16 with fp32 accumulation
    "single_partition_of_fp32_groups",  # DeepSpeedZeroOptimizer: ZeRO 1 and 2
    "fp32_partitioned_groups_flat",  # DeepSpeedZeroOptimizer_Stage3
)
"""Where DeepSpeed's optimizers keep this rank's flat fp32 master weights, one tensor a group."""


class ZeroState:
    """Master weights and moments of the trained parameters; every method is a collective."""

    def __init__(
        self,
        zero: Any,
        named: list[tuple[str, nn.Parameter]],
        specs: Mapping[str, ParameterSpec],
        grid: Grid,
    ) -> None:
        """`zero` is DeepSpeed's optimizer; `named` are the parameters that it trains."""
        self._zero = zero
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
            zero.optimizer.locate(self._pieces, self._wholes())

    def optimizer_steps(self) -> int:
        """Optimizer steps taken so far, as Adam counts them for its bias correction."""
        for partition in self._partitions():
            state = self._zero.optimizer.state.get(partition)
            if state:
                return int(state["step"])
        return 0

    def snapshot(self) -> dict[str, Tensor]:
        """Master weights and moments of this tensor-parallel rank, copied to host memory.

        Keys are `tensor_key(state key, parameter)`; only data-parallel rank 0 keeps them, the other
        ranks help to gather and get an empty dictionary. The memory is that of the snapshot before:
        fresh pages for gigabytes take longer than the copy.
        """
        self._link()
        for number, (name, parameter) in enumerate(self._named):
            for key in STATE_KEYS:
                local = self._full(number, parameter, key)
                if self._grid.dp_rank == 0:
                    spec, grid = self._specs[name], self._grid
                    unpadded = unpad_local(spec, local, grid.tp_rank, grid.tp_size)
                    self._to_host(tensor_key(key, name), unpadded)
        if self._grid.device.type == "cuda":
            torch.cuda.synchronize()
        return dict(self._host)

    def _full(self, number: int, parameter: nn.Parameter, key: str) -> Tensor:
        """The fp32 tensor `key` of a parameter, gathered over data-parallel ranks."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        if self._grid.dp_size > 1:
            if key == "weight":
                return safe_get_full_fp32_param(parameter)
            return safe_get_full_optimizer_state(parameter, key)
        partition, piece = self._places[number]  # all of it is here: no copy on the way
        flat = partition if key == "weight" else self._zero.optimizer.state[partition][key]
        shape = getattr(parameter, "ds_shape", parameter.shape)  # ZeRO 3 leaves it empty itself
        return flat.narrow(0, piece.start, piece.length).view(shape)

    def _to_host(self, name: str, tensor: Tensor) -> None:
        if name not in self._host:
            self._host[name] = torch.empty(
                tensor.shape, dtype=tensor.dtype, pin_memory=torch.cuda.is_available()
            )
        self._host[name].copy_(tensor.detach(), non_blocking=True)

    def restore(self, reader: TensorReader, optimizer_steps: int) -> None:
        """Sets master weights, moments and Adam's step count from a checkpoint.

        The model must have been built with the checkpoint's weights, so that the low-precision
        copies agree with the masters already.
        """
        self._make_moments(optimizer_steps)
        for name, parameter in self._named:
            for key in STATE_KEYS:
                value = reader.local(
                    key, name, self._specs[name], self._grid.tp_rank, self._grid.tp_size
                )
                self._set_full(parameter, key, value.to(self._grid.device))

    def _partitions(self) -> list[Tensor]:
        """The flat fp32 tensors that the optimizer works on."""
        for name in FLAT_PARTITIONS:
            if hasattr(self._zero, name):
                return list(getattr(self._zero, name))
        raise AssertionError(f"{type(self._zero).__name__} keeps its fp32 partitions elsewhere")

    def _make_moments(self, optimizer_steps: int) -> None:
        for partition in self._partitions():
            state = self._zero.optimizer.state[partition]
            state["step"] = torch.tensor(float(optimizer_steps), device=partition.device)
            for key in MOMENTS:
                state[key] = torch.zeros_like(partition)
        self._link()

    def _link(self) -> None:
        if not any(self._zero.optimizer.state.get(p) for p in self._partitions()):
            self._make_moments(0)
        elif hasattr(self._zero, "_lazy_init_hp_params_optimizer_state"):
            self._zero._hp_optimizer_states_linked = False
            self._zero._lazy_init_hp_params_optimizer_state()

    def _set_full(self, parameter: nn.Parameter, key: str, value: Tensor) -> None:
        from deepspeed.utils import (
            safe_set_full_fp32_param,
            safe_set_full_optimizer_state,
            safe_set_local_fp32_param,
            safe_set_local_optimizer_state,
        )

        if not hasattr(parameter, "ds_id"):
            if key == "weight":
                safe_set_full_fp32_param(parameter, value)
            else:
                safe_set_full_optimizer_state(parameter, value, key)
            return
        length: int = parameter.ds_tensor.ds_numel  # type: ignore[attr-defined]
        start = length * self._grid.dp_rank
        local = torch.zeros(length, device=value.device)
        piece = value.flatten()[start : start + length]
        local[: len(piece)] = piece
        if key == "weight":
            safe_set_local_fp32_param(parameter, local)
        else:
            safe_set_local_optimizer_state(parameter, local, key)

    def _locate(self) -> dict[Tensor, list[Piece]]:
        """Where the parameters lie in this rank's flat partitions."""
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
        wholes = []
        for name, _ in self._named:
            spec = self._specs[name]
            copies = self._grid.tp_size if spec.partition_dim is None else 1
            wholes.append(WholeParameter(torch.Size(spec.full_shape).numel(), copies))
        return wholes
