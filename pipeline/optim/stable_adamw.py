"""StableAdamW (Wortsman et al. 2023, "Stable and low-precision training", Algorithm 2)."""

from typing import TYPE_CHECKING, Any, Literal

from pipeline.optim.optimizer import AdamSettings

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from pipeline.optim.layerwise_adam import LayerwiseAdam


class StableAdamWConfig(AdamSettings):
    """AdamW that slows down where its second moment lags behind (Wortsman et al. 2023)."""

    type: Literal["stable_adamw"]

    def build(
        self, parameters: list["torch.nn.Parameter"], device: "torch.device"
    ) -> "torch.optim.Optimizer":
        """StableAdamW with the mean squares of whole parameters at any grid."""
        from pipeline.optim.layerwise_adam import LayerwiseAdam

        return LayerwiseAdam(
            self.parameter_groups(parameters),
            adapted_step=stable_adamw_step,
            device=device,
            **self.arguments(),
        )


def stable_adamw_step(
    optimizer: "LayerwiseAdam",
    partition: "Tensor",
    mean: "Tensor",
    root: "Tensor",
    group: dict[str, Any],
) -> None:
    """Updates `partition` in place.

    Where the second moment lags behind the gradient, so that the root mean square of gradient /
    second moment is over 1, the learning rate of that parameter is divided by it.
    """
    assert partition.grad is not None
    relative = partition.grad / root.clamp(min=group["eps"])
    rms = (optimizer.whole_sums(partition, relative)[:, 0] / optimizer.sizes(partition)).sqrt()
    factors = 1 / rms.clamp(min=1.0)
    update = mean.div_(root.add_(group["eps"])).add_(partition, alpha=group["weight_decay"])
    optimizer.scale_pieces(partition, update, factors)
    partition.sub_(update, alpha=group["lr"])
