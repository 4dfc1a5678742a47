"""The optimizer's groups cut into buckets, which a backward pass completes one after another.

Under ZeRO a group is a flat tensor of its own: one that is complete is summed over ranks while the
backward pass still runs. Checkpoints hold parameters, and do not know of groups.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer


def split_into_buckets(
    optimizer: "Optimizer", parameters: Sequence["nn.Parameter"], num_values: float
) -> None:
    """Cuts each group of a new optimizer into buckets of at least `num_values` values.

    `parameters` are in the order of the forward pass, so that gradients are complete from the last
    to the first: in this order they fill buckets, of which the last may be smaller, and the buckets
    of all groups are sorted. A group of whole matrices (`whole`: Muon divides them over the ranks)
    stays one. Every rank gets the same buckets.
    """
    place = {id(parameter): number for number, parameter in enumerate(parameters)}
    groups = [
        {**group, "params": bucket}
        for group in optimizer.param_groups
        for bucket in _buckets(
            sorted(group["params"], key=lambda parameter: place[id(parameter)]),
            float("inf") if group.get("whole") else num_values,
        )
    ]
    groups.sort(key=lambda group: -min(place[id(parameter)] for parameter in group["params"]))
    optimizer.param_groups = groups


def join_buckets(sizes: Sequence[float], num_values: float) -> list[list[int]]:
    """The numbers of neighbouring buckets that have at least `num_values` values together, in their
    order; only the first may have fewer. `sizes` are the values of each bucket.

    Few values, as those of biases and norms, go with the buckets before them.
    """
    joined: list[list[int]] = []
    values = num_values
    for number in reversed(range(len(sizes))):
        if values >= num_values:
            joined.insert(0, [])
            values = 0.0
        joined[0].insert(0, number)
        values += sizes[number]
    return joined


def _buckets(
    parameters: Sequence["nn.Parameter"], num_values: float
) -> Iterator[list["nn.Parameter"]]:
    """The parameters of each bucket, from the last on, in their order in the group."""
    bucket: list[nn.Parameter] = []
    for parameter in reversed(parameters):
        bucket.insert(0, parameter)
        if sum(one.numel() for one in bucket) >= num_values:
            yield bucket
            bucket = []
    if bucket:
        yield bucket
