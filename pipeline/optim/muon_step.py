"""Muon's step under ZeRO and tensor parallelism; see `pipeline.optim.muon`."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pipeline.optim.layerwise_adam import LayerwiseAdam, WholeParameter
from pipeline.optim.optimizer import MOMENTUM_KEY
from pipeline.optim.orthogonal import orthogonalised_all
from pipeline.optim.whole_matrices import MatrixExchange, Piece


class Muon(LayerwiseAdam):
    """Muon in groups with ``whole=True``, AdamW in all others; a step is a collective.

    The former have a `momentum` and a number of Newton-Schulz `iterations`.
    """

    def __init__(
        self,
        params: list[dict[str, Any]],
        lr: float,
        betas: tuple[float, float],
        eps: float,
        device: torch.device,
    ) -> None:
        super().__init__(params, None, lr, betas, eps, device)
        self._exchanges: dict[int, MatrixExchange] = {}

    def locate(
        self,
        pieces: Mapping[Tensor, Sequence[Piece]],
        wholes: Sequence[WholeParameter],
        tp_size: int,
    ) -> None:
        """Divides the matrices over the ranks; a collective over all ranks."""
        super().locate(pieces, wholes, tp_size)
        specs = {
            number: whole.spec
            for number, whole in enumerate(wholes)
            if whole.spec.matrices is not None
        }
        self._exchanges = {
            id(partition): MatrixExchange(
                [piece for piece in found if piece.parameter in specs], specs, tp_size, self._device
            )
            for partition, found in pieces.items()
        }
        self._matrices = {number: spec.matrices or (1,) for number, spec in specs.items()}

    def update(self, partition: Tensor, group: dict[str, Any]) -> None:
        """One step of one partition."""
        if not group["whole"]:
            super().update(partition, group)
            return
        assert partition.grad is not None
        state = self.state[partition]
        if MOMENTUM_KEY not in state:
            state["step"] = torch.zeros(())
            state[MOMENTUM_KEY] = torch.zeros_like(partition)
        state["step"] += 1
        momentum = group["momentum"]
        state[MOMENTUM_KEY].lerp_(partition.grad, 1 - momentum)
        change = partition.grad.lerp(state[MOMENTUM_KEY], momentum)
        exchange = self._exchanges[id(partition)]
        whole = exchange.collect(change)
        steps = orthogonalised_all(whole, self._matrices, group["iterations"])
        exchange.give_back(steps, change)
        partition.mul_(1 - group["lr"] * group["weight_decay"])
        partition.add_(change, alpha=-group["lr"])
