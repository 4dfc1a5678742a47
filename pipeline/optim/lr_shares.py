"""Parameters with a share of the learning rate: the optimizer's groups are split by it.

`Engine.start_step` multiplies the rate of a step by the ``lr_share`` of each group. Under ZeRO a
group is a flat tensor of its own, so every share is exact at any grid; checkpoints hold parameters,
and do not know of groups.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer


def declare_lr_share(parameter: "nn.Parameter", share: float) -> None:
    """Writes on `parameter` which share of the learning rate it takes."""
    parameter.lr_share = share  # type: ignore[attr-defined]


def split_by_lr_share(optimizer: "Optimizer") -> None:
    """Splits each group of a new optimizer into one for each share of its parameters.

    A share that the group has of its own (Muon's `adamw_lr`) is multiplied.
    """
    groups: list[dict[str, Any]] = []
    for group in optimizer.param_groups:
        by_share: dict[float, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            by_share.setdefault(getattr(parameter, "lr_share", 1.0), []).append(parameter)
        for share, parameters in by_share.items():
            factor = share * group.get("lr_share", 1.0)
            groups.append({**group, "params": parameters, "lr_share": factor})
    optimizer.param_groups = groups
