"""AdamW, RoBERTa's optimizer."""

from typing import TYPE_CHECKING, Literal

from pipeline.optim.optimizer import AdamSettings

if TYPE_CHECKING:
    import torch


class AdamWConfig(AdamSettings):
    """Adam with decoupled weight decay (Liu et al. 2019, Table 9)."""

    type: Literal["adamw"] = "adamw"

    def build(
        self, parameters: list["torch.nn.Parameter"], device: "torch.device"
    ) -> "torch.optim.Optimizer":
        """torch's fused AdamW."""
        import torch

        return torch.optim.AdamW(self.parameter_groups(parameters), **self.arguments(), fused=True)
