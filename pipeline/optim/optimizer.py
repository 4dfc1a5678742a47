"""What every optimizer declares: its settings, its state, and how it is built. Imports no torch.

An optimizer is one file with one frozen config, listed in `pipeline.optim.union`. Checkpoints, the
memory planner and resume read what it keeps of each parameter from its config.
"""

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, NonNegativeFloat, PositiveFloat

from configs.load import Config

if TYPE_CHECKING:
    import torch

    from model.parameters import ParameterSpec

WEIGHT_KEY = "weight"
"""The state key of the fp32 master weight, which every optimizer updates."""
MOMENTUM_KEY = "momentum"
"""The state key of the momentum of matrices in Muon."""


class OptimizerSettings(Config):
    """The base of all optimizer configs."""

    MOMENTS: ClassVar[tuple[str, ...]]
    """Keys of the tensors in torch's optimizer state that have the shape of a parameter."""

    STEP_KEY: ClassVar[str | None] = None
    """Key of the number of steps taken in torch's optimizer state; None: it keeps none."""

    lr: PositiveFloat
    """The peak learning rate."""
    weight_decay: NonNegativeFloat = 0.01
    """Weight decay of a step, as a share of the learning rate; biases and norms do not decay."""

    def build(
        self, parameters: list["torch.nn.Parameter"], device: "torch.device"
    ) -> "torch.optim.Optimizer":
        """The optimizer of `parameters`; `device` is where its small collectives happen."""
        raise NotImplementedError

    def group_settings(
        self, parameters: list["torch.nn.Parameter"], device: "torch.device"
    ) -> list[dict[str, Any]]:
        """The settings of each of torch's parameter groups, without the parameters."""
        groups = self.build(parameters, device).param_groups
        return [{key: group[key] for key in group if key != "params"} for group in groups]

    def moments_of(self, spec: "ParameterSpec") -> tuple[str, ...]:
        """Those of `MOMENTS` that it keeps of a parameter."""
        return self.MOMENTS

    @property
    def state_keys(self) -> tuple[str, ...]:
        """What a checkpoint holds of trained parameters: the master weight and the moments."""
        return (WEIGHT_KEY, *self.MOMENTS)

    def state_bytes(self, parameters: float, in_matrices: float) -> float:
        """Bytes of the fp32 master weights and the fp32 moments of so many parameters, of which
        `in_matrices` are in the matrices of layers."""
        return 4 * len(self.state_keys) * parameters

    def parameter_groups(self, parameters: list["torch.nn.Parameter"]) -> list[dict[str, Any]]:
        """torch's parameter groups: matrices with weight decay; biases and norms without."""
        decayed = [p for p in parameters if p.dim() > 1]
        plain = [p for p in parameters if p.dim() <= 1]
        return [
            {"params": decayed, "weight_decay": self.weight_decay, "adapt": True},
            {"params": plain, "weight_decay": 0.0, "adapt": False},
        ]


class AdamSettings(OptimizerSettings):
    """What Adam and its relatives share: two moments, both corrected for their zero start."""

    MOMENTS: ClassVar[tuple[str, ...]] = ("exp_avg", "exp_avg_sq")
    STEP_KEY = "step"

    lr: PositiveFloat = 4e-4
    """The peak learning rate (RoBERTa: 6e-4 base, 4e-4 large)."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """Decay of the first moment."""
    beta2: float = Field(0.98, ge=0, lt=1)
    """Decay of the second moment."""
    eps: PositiveFloat = 1e-6
    """Added to the root of the second moment."""

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of a torch optimizer of Adam's kind."""
        return {"lr": self.lr, "betas": (self.beta1, self.beta2), "eps": self.eps}
