"""Muon for the matrices of the layers, AdamW for all other parameters.

Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; weight decay and the
size of the update as in Liu et al. 2025, "Muon is scalable for LLM training".
"""

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, PositiveFloat

from pipeline.optim.optimizer import MOMENTUM_KEY, AdamSettings

if TYPE_CHECKING:
    import torch

    from model.parameters import ParameterSpec


class MuonConfig(AdamSettings):
    """Muon on the matrices of the layers; AdamW, with `adamw_lr`, `beta1`, `beta2` and `eps`, on
    embeddings, heads, biases and norms.

    Query, key and value are separate matrices to it, and so are the gate and the value of a gated
    activation. Each update is that of the whole matrix at any grid.
    """

    MOMENTS: ClassVar[tuple[str, ...]] = (MOMENTUM_KEY, *AdamSettings.MOMENTS)

    type: Literal["muon"]

    lr: PositiveFloat = 4e-3
    """The peak learning rate of the matrices, on the scale of AdamW's (Liu et al. 2025): elements
    of an update have a root mean square of 0.2 lr. Jordan's 0.02 is about 9e-3 here for square
    matrices of width 128, and 3.6e-3 for those of width 768."""
    adamw_lr: PositiveFloat = 2e-3
    """The peak learning rate of all other parameters, which follows the same schedule."""
    momentum: float = Field(0.95, ge=0, lt=1)
    """Decay of the momentum of the matrices, which is Nesterov's."""
    iterations: int = Field(5, ge=1, le=20)
    """Newton-Schulz iterations of a step."""

    def moments_of(self, spec: "ParameterSpec") -> tuple[str, ...]:
        """One moment of the matrices, two of all others."""
        return AdamSettings.MOMENTS if spec.matrices is None else (MOMENTUM_KEY,)

    def state_bytes(self, parameters: float, in_matrices: float) -> float:
        """Bytes of master weights and moments: 8 of a parameter in a matrix, 12 of all others."""
        return 12 * parameters - 4 * in_matrices

    def parameter_groups(self, parameters: list["torch.nn.Parameter"]) -> list[dict[str, Any]]:
        """The matrices of the layers; other matrices; biases and norms, which do not decay."""
        matrices = [p for p in parameters if p.spec.matrices is not None]  # type: ignore[attr-defined]
        rest = [p for p in parameters if p.spec.matrices is None]  # type: ignore[attr-defined]
        decayed, plain = super().parameter_groups(rest)
        share = self.adamw_lr / self.lr
        groups = [
            {
                "params": matrices,
                "weight_decay": self.weight_decay,
                "whole": True,
                "momentum": self.momentum,
                "iterations": self.iterations,
            },
            {**decayed, "adapt": False, "whole": False, "lr_share": share},
            {**plain, "whole": False, "lr_share": share},
        ]
        return [group for group in groups if group["params"]]

    def build(
        self, parameters: list["torch.nn.Parameter"], device: "torch.device"
    ) -> "torch.optim.Optimizer":
        """Muon and AdamW as one optimizer."""
        from pipeline.optim.muon_step import Muon

        return Muon(self.parameter_groups(parameters), device=device, **self.arguments())
