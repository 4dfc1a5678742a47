"""Sums of flat gradients over data-parallel ranks, started while the backward pass still runs::

    last backward pass    | head, layers 11-8 | layers 7-4 | layers 3-0 | embeddings |
    bucket 0                                  | sum |
    bucket 1                                               | sum |
    bucket 2                                                            | sum |
    bucket 3                                                                         | sum |

All ranks have to call collectives in the same order, but not all have the same gradients in their
last micro-batch (a head that only some tasks train). So buckets start strictly in their order, each
when it and all before it are complete, and at the end of the pass those that are left. Messages of
tensor-parallel peers continue meanwhile, in a process group of their own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor

from pipeline.run.memory import SCATTERED_VALUES


@dataclass(frozen=True)
class Bucket:
    """A flat tensor of gradients, equally long on all ranks."""

    flat: Tensor
    """fp32 [values], of all parameters of the bucket."""
    partition: Tensor
    """The part of `flat` that this rank gets the sum of; the rest of `flat` is then undefined."""
    num_parameters: int
    group: dist.ProcessGroup
    """The data-parallel ranks."""


class BucketSums:
    """The sums of one step after another."""

    def __init__(self, buckets: Sequence[Bucket]) -> None:
        self._buckets = buckets
        self._missing: list[set[int]] = []
        """By bucket, its parameters without a gradient in this pass; empty before the last one."""
        self._started: list[dist.Work | None] = []
        """Of the buckets in their order; None where there is one rank."""

    def start_last_pass(self) -> None:
        """Call before the backward pass in which gradients become complete."""
        self._missing = [set(range(bucket.num_parameters)) for bucket in self._buckets]

    def gradient_added(self, bucket: int, parameter: int) -> None:
        """Call after the gradient of a pass was added to `flat`, by number in the bucket.

        Autograd adds it once a pass, all uses of a parameter summed; torch's reentrant
        checkpointing, which nothing here uses, would do it more than once.
        """
        if not self._missing:
            return
        assert bucket >= len(self._started), "a gradient was added after its bucket was complete"
        self._missing[bucket].discard(parameter)
        while len(self._started) < len(self._buckets) and not self._missing[len(self._started)]:
            self._start_next()

    def finish(self) -> None:
        """Leaves in each partition the mean over ranks, in the stream's order; a collective."""
        while len(self._started) < len(self._buckets):
            self._start_next()
        for bucket, work in zip(self._buckets, self._started, strict=True):
            if work is not None:
                work.wait()  # on a GPU the stream waits, not the host
                bucket.partition.div_(dist.get_world_size(bucket.group))
        self._missing, self._started = [], []

    def _start_next(self) -> None:
        bucket = self._buckets[len(self._started)]
        self._started.append(_start(bucket))


def _start(bucket: Bucket) -> dist.Work | None:
    if dist.get_world_size(bucket.group) == 1:
        return None
    work: dist.Work | None
    if len(bucket.partition) < SCATTERED_VALUES:
        work = dist.all_reduce(bucket.flat, group=bucket.group, async_op=True)
    else:
        name = "reduce_scatter_single"  # its name before torch 2.13 is the other one
        reduce_scatter = getattr(dist, name, None) or dist.reduce_scatter_tensor
        work = reduce_scatter(bucket.partition, bucket.flat, group=bucket.group, async_op=True)
    return work
