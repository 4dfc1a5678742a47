"""Adam with a factor on the step of each whole parameter, correct under ZeRO and TP.

LAMB and StableAdamW need one number of each whole parameter (a norm, a mean square), but under ZeRO
a rank's optimizer sees flat partitions that hold pieces of many parameters, and under tensor
parallelism every rank has its own shard. `LayerwiseAdam.locate` gets the places of the pieces;
`whole_sums` sums over the pieces of this rank and adds the sums of all ranks in one small
all-reduce. The step of a parameter is then the same at any grid, up to the rounding of sums.

The stored state is that of AdamW: `step`, `exp_avg`, `exp_avg_sq`. `step` is in host memory, as
the host computes with it, and small tensors are copied so that it does not wait for the device.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from model.parameters import ParameterSpec
from model.transfer import to_device
from pipeline.optim.whole_matrices import Piece


@dataclass(frozen=True)
class WholeParameter:
    """A parameter over all ranks."""

    numel: int
    """Elements of the full parameter over all tensor-parallel ranks, vocabulary padding left out
    (it has no gradient, so it adds nothing to any sum)."""
    copies: int
    """How many tensor-parallel ranks hold the same values: tp_size of replicated ones, else 1."""
    spec: ParameterSpec
    """Its shape and sharding."""


AdaptedStep = Callable[["LayerwiseAdam", Tensor, Tensor, Tensor, dict[str, Any]], None]
"""Updates a flat partition in place, given the optimizer, the partition, the bias-corrected first
moment, the root of the second (both may be overwritten) and the parameter group."""


class LayerwiseAdam(torch.optim.Optimizer):
    """Decoupled-decay Adam with a factor on each parameter's step; a collective over all ranks.

    Groups with ``adapt=True`` take `adapted_step`, the others (biases and norms) plain AdamW steps.
    """

    def __init__(
        self,
        params: list[dict[str, Any]],
        adapted_step: AdaptedStep | None,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        device: torch.device,
    ) -> None:
        """`device` is where the small all-reduce happens (partitions may lie elsewhere)."""
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})
        self._adapted_step = adapted_step
        self._device = device
        self._pieces: dict[int, tuple[Piece, ...]] = {}
        self._wholes: tuple[WholeParameter, ...] = ()

    def locate(
        self,
        pieces: Mapping[Tensor, Sequence[Piece]],
        wholes: Sequence[WholeParameter],
        tp_size: int,
    ) -> None:
        """Sets the pieces of each flat partition of this rank, and the parameters they are of.

        Consecutive ranks are `tp_size` tensor-parallel peers. All ranks call it alike.
        """
        self._pieces = {id(partition): tuple(found) for partition, found in pieces.items()}
        self._wholes = tuple(wholes)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step of the partitions that have a gradient; all ranks call it alike."""
        for group in self.param_groups:
            for partition in group["params"]:
                if partition.grad is not None:
                    self.update(partition, group)

    def update(self, partition: Tensor, group: dict[str, Any]) -> None:
        """One step of one partition."""
        mean, root = self._moments(partition, group)
        if group["adapt"]:
            assert self._adapted_step is not None
            self._adapted_step(self, partition, mean, root, group)
        else:
            partition.mul_(1 - group["lr"] * group["weight_decay"])
            partition.addcdiv_(mean, root.add_(group["eps"]), value=-group["lr"])

    def _moments(self, partition: Tensor, group: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Bias-corrected first moment and root of the second, with the gradient included."""
        assert partition.grad is not None
        beta1, beta2 = group["betas"]
        state = self.state[partition]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"] = torch.zeros_like(partition)
            state["exp_avg_sq"] = torch.zeros_like(partition)
        state["step"] += 1
        count = int(state["step"])
        gradient = partition.grad
        state["exp_avg"].lerp_(gradient, 1 - beta1)
        state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        mean = state["exp_avg"] / (1 - beta1**count)
        root = (state["exp_avg_sq"] / (1 - beta2**count)).sqrt_()
        return mean, root

    def whole_sums(self, partition: Tensor, *values: Tensor) -> Tensor:
        """Sums of squares of `values` [partition] over each whole parameter: [parameters, values].

        In fp64, so that the grid hardly changes them. A collective over all ranks.
        """
        shape = (len(self._wholes), len(values))
        sums = torch.zeros(shape, dtype=torch.float64, device=partition.device)
        for piece in self._pieces[id(partition)]:
            if piece.length:
                for column, value in enumerate(values):
                    part = value.narrow(0, piece.start, piece.length)
                    sums[piece.parameter, column] += part.double().square().sum()
        sums = sums.to(self._device)
        dist.all_reduce(sums)
        copies = to_device(torch.tensor([w.copies for w in self._wholes]), sums.device)
        return (sums / copies[:, None]).to(partition.device)

    def scale_pieces(self, partition: Tensor, values: Tensor, factors: Tensor) -> None:
        """Multiplies each parameter's piece of `values` by its factor, in place."""
        for piece in self._pieces[id(partition)]:
            values.narrow(0, piece.start, piece.length).mul_(factors[piece.parameter].float())

    def sizes(self, partition: Tensor) -> Tensor:
        """Elements of each whole parameter: int64 [parameters], on the device of `partition`."""
        return to_device(torch.tensor([whole.numel for whole in self._wholes]), partition.device)
