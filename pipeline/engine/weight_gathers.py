"""All-gathers of new weights, during which the next forward pass starts::

    messages      | gather 0   | gather 1   | gather 2   |
    forward pass               | embeddings | layers 0-5 | layers 6-11 | head |

They start in the order in which the forward pass needs them, the same on all ranks. Before each of
its parts the model waits for those of the part (`model.arriving_weights`); everyone else gets the
model from the engine, which waits for all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import _coalescing_manager

from pipeline.optim.buckets import join_buckets
from pipeline.run.memory import values_per_gather


@dataclass(frozen=True)
class NewWeights:
    """The weights of a bucket, of which this rank has updated a part."""

    flat: Tensor
    """[values], of all parameters of the bucket, equally long on all ranks."""
    mine: Tensor
    """The part of `flat` that this rank has updated."""
    parameters: Sequence[nn.Parameter]


class Message(Protocol):
    """A collective on its way."""

    def wait(self) -> Any:
        """Returns when its results may be read; on a GPU by what is launched next."""


class WeightGathers:
    """The all-gathers of one update after another; see `model.arriving_weights.Weights`."""

    def __init__(self, buckets: Sequence[NewWeights], group: dist.ProcessGroup) -> None:
        """`buckets` are in the order of the forward pass, `group` are the data-parallel ranks."""
        self._group = group
        sizes = [bucket.flat.numel() for bucket in buckets]
        joined = join_buckets(sizes, values_per_gather(sum(sizes)))
        self._gathers = [[buckets[number] for number in numbers] for numbers in joined]
        self._gather_of = {
            parameter: number
            for number, gathered in enumerate(self._gathers)
            for bucket in gathered
            for parameter in bucket.parameters
        }
        self._needed: dict[nn.Module, set[int]] = {}
        """By part, the gathers that have weights of it; filled as parts are asked for."""
        self._started: dict[int, Message] = {}
        """By number, those that nobody has waited for."""

    def start(self) -> None:
        """Starts to gather what ranks have put into `NewWeights.mine`; a collective."""
        assert not self._started, "weights were updated before those of the last update were there"
        self._started = {
            number: message
            for number, gathered in enumerate(self._gathers)
            if (message := start_gather(gathered, self._group)) is not None
        }

    def ready(self, *parts: nn.Module) -> None:
        """See `Weights`."""
        if not self._started:
            return
        for part in parts:
            if part not in self._needed:
                held = (self._gather_of.get(parameter) for parameter in part.parameters())
                self._needed[part] = {number for number in held if number is not None}
            for number in self._needed[part] & self._started.keys():
                self._started.pop(number).wait()


def start_gather(buckets: Sequence[NewWeights], group: dist.ProcessGroup) -> Message | None:
    """The all-gather of `buckets`; None where there is one rank."""
    if dist.get_world_size(group) == 1:
        return None
    # Not public in torch, but what its public collectives of lists of tensors lack: one launch, in
    # which the rings of many ranks wait for each other once.
    message: Message
    with _coalescing_manager(group, async_ops=True) as message:
        for bucket in buckets:
            _all_gather(bucket.flat, bucket.mine, group)
    return message


def _all_gather(flat: Tensor, mine: Tensor, group: dist.ProcessGroup) -> None:
    """Fills `flat` with the parts of all ranks; `mine` is this rank's own part of it."""
    gather = getattr(dist, "all_gather_single", None)  # its name before torch 2.13 is the other one
    (gather or dist.all_gather_into_tensor)(flat, mine, group=group)
