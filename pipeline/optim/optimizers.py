"""The optimizers that a run can take: schemas, and what they build (torch is imported late)."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat

from configs.load import Config

if TYPE_CHECKING:
    import torch


class AdamSettings(Config):
    """What all of them share: Adam's moments, and weight decay that spares biases and norms."""

    lr: PositiveFloat = 4e-4
    """The peak learning rate (RoBERTa: 6e-4 base, 4e-4 large)."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """Decay of the first moment."""
    beta2: float = Field(0.98, ge=0, lt=1)
    """Decay of the second moment."""
    eps: PositiveFloat = 1e-6
    """Added to the root of the second moment."""
    weight_decay: NonNegativeFloat = 0.01
    """Weight decay a step, as a share of the learning rate."""

    def build(
        self, parameters: list["torch.nn.Parameter"], device: "torch.device"
    ) -> "torch.optim.Optimizer":
        """The optimizer of `parameters`; `device` is where its small collectives happen."""
        raise NotImplementedError

    def _arguments(self) -> dict[str, Any]:
        return {"lr": self.lr, "betas": (self.beta1, self.beta2), "eps": self.eps}

    def _groups(self, parameters: list["torch.nn.Parameter"]) -> list[dict[str, Any]]:
        """Two groups: matrices decay, biases and norms do not."""
        decayed = [p for p in parameters if p.dim() > 1]
        plain = [p for p in parameters if p.dim() <= 1]
        return [
            {"params": decayed, "weight_decay": self.weight_decay, "adapt": True},
            {"params": plain, "weight_decay": 0.0, "adapt": False},
        ]


class AdamWConfig(AdamSettings):
    """Adam with decoupled weight decay (Liu et al. 2019, Table 9)."""

    type: Literal["adamw"] = "adamw"

    def build(
        self, parameters: list["torch.nn.Parameter"], device: "torch.device"
    ) -> "torch.optim.Optimizer":
        """torch's fused AdamW."""
        from model.parallel.light_torch import AdamW

        return AdamW(self._groups(parameters), **self._arguments(), fused=True)


class LambConfig(AdamSettings):
    """LAMB, for global batches of tens of thousands of rows (You et al. 2020)."""

    type: Literal["lamb"]

    lr: PositiveFloat = 2e-3
    """The peak learning rate."""
    beta2: float = Field(0.999, ge=0, lt=1)
    """Decay of the second moment."""

    def build(
        self, parameters: list["torch.nn.Parameter"], device: "torch.device"
    ) -> "torch.optim.Optimizer":
        """LAMB with the ratios of whole parameters at any grid."""
        from pipeline.optim.layerwise_adam import Lamb

        return Lamb(self._groups(parameters), device=device, **self._arguments())


class StableAdamWConfig(AdamSettings):
    """AdamW that slows down where its second moment lags behind (Wortsman et al. 2023)."""

    type: Literal["stable_adamw"]

    def build(
        self, parameters: list["torch.nn.Parameter"], device: "torch.device"
    ) -> "torch.optim.Optimizer":
        """StableAdamW with the mean squares of whole parameters at any grid."""
        from pipeline.optim.layerwise_adam import StableAdamW

        return StableAdamW(self._groups(parameters), device=device, **self._arguments())


OptimizerConfig = Annotated[
    AdamWConfig | LambConfig | StableAdamWConfig, Field(discriminator="type")
]
