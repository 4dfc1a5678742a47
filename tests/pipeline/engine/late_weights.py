"""Weights that are NaN until somebody waits for them: what a read too early does on a real network.

A tensor-parallel or data-parallel run on one machine gets its weights so fast that a read without a
wait would mostly go unnoticed.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from pipeline.engine import deepspeed_start, weight_gathers
from pipeline.engine.weight_gathers import NewWeights, start_gather


@dataclass(frozen=True)
class LateMessage:
    """An all-gather whose results are there at the wait, and not before."""

    flats: list[Tensor]
    values: list[Tensor]

    @torch.no_grad()
    def wait(self) -> None:
        for flat, values in zip(self.flats, self.values, strict=True):
            flat.copy_(values)


@torch.no_grad()
def start_late(buckets: Sequence[NewWeights], group: Any) -> LateMessage:
    """In place of `start_gather`, on one rank too."""
    start_at_once(buckets, group)
    flats = [bucket.flat for bucket in buckets]
    message = LateMessage(flats, [flat.clone() for flat in flats])
    for flat in flats:
        flat.fill_(math.nan)
    return message


def start_at_once(buckets: Sequence[NewWeights], group: Any) -> None:
    """In place of `start_gather`: waits at once."""
    message = start_gather(buckets, group)
    if message is not None:
        message.wait()


@contextlib.contextmanager
def gathers(start: Any, bucket_values: int = 1) -> Iterator[None]:
    """In this block `start` gathers weights, by default each parameter by itself."""
    with (
        mock.patch.object(weight_gathers, "start_gather", start),
        mock.patch.object(deepspeed_start, "values_per_bucket", return_value=bucket_values),
        mock.patch.object(weight_gathers, "values_per_gather", return_value=bucket_values),
    ):
        yield
