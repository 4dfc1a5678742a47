"""LAMB (You et al. 2020, "Large batch optimization for deep learning", Algorithm 2)."""

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PositiveFloat

from pipeline.optim.optimizer import AdamSettings

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from pipeline.optim.layerwise_adam import LayerwiseAdam


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
        """LAMB with the norms of whole parameters at any grid."""
        from pipeline.optim.layerwise_adam import LayerwiseAdam

        groups = self.parameter_groups(parameters)
        return LayerwiseAdam(groups, adapted_step=lamb_step, device=device, **self.arguments())


def lamb_step(
    optimizer: "LayerwiseAdam",
    partition: "Tensor",
    mean: "Tensor",
    root: "Tensor",
    group: dict[str, Any],
) -> None:
    """Updates `partition` in place: the step of each parameter has the length lr x |weight|.

    Parameters without weight decay take plain AdamW steps, as in the authors' code.
    """
    import torch

    update = mean.div_(root.add_(group["eps"]))
    update.add_(partition, alpha=group["weight_decay"])
    weight, change = optimizer.whole_sums(partition, partition, update).sqrt().unbind(dim=1)
    ratio = torch.where((weight > 0) & (change > 0), weight / change, 1.0)
    optimizer.scale_pieces(partition, update, ratio)
    partition.sub_(update, alpha=group["lr"])
