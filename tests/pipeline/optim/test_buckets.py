"""The optimizer's groups cut into buckets."""

import math
from typing import Any

import torch
from torch import nn

from pipeline.optim.buckets import join_buckets, split_into_buckets


def network() -> nn.Module:
    return nn.Sequential(*(nn.Linear(4, 4) for _ in range(4)))


def split(num_values: float, **matrices: Any) -> list[tuple[float, list[int]]]:
    """(weight decay, places in the model of the parameters) of each group after the split."""
    parameters = list(network().parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": 0.1, **matrices},
        {"params": [p for p in parameters if p.dim() == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups)
    split_into_buckets(optimizer, parameters, num_values)
    place = {id(parameter): number for number, parameter in enumerate(parameters)}
    return [
        (group["weight_decay"], [place[id(parameter)] for parameter in group["params"]])
        for group in optimizer.param_groups
    ]


def test_buckets_are_in_the_order_in_which_gradients_become_complete() -> None:
    """From the last layer on; biases, too few for more than one, are complete after weights 1."""
    assert split(17) == [(0.1, [4, 6]), (0.0, [1, 3, 5, 7]), (0.1, [0, 2])]


def test_a_bucket_holds_whole_parameters() -> None:
    assert split(1) == [(0.1 * (n % 2 == 0), [n]) for n in range(7, -1, -1)]


def test_small_models_keep_their_groups() -> None:
    expected = [(0.0, [1, 3, 5, 7]), (0.1, [0, 2, 4, 6])]
    assert split(65) == split(math.inf) == expected


def test_whole_matrices_stay_together() -> None:
    assert split(16, whole=True) == [(0.0, [1, 3, 5, 7]), (0.1, [0, 2, 4, 6])]


def test_small_buckets_are_joined_with_those_before_them() -> None:
    """So that the first is no larger than it has to be, from which everything starts."""
    assert join_buckets([50, 1, 30, 30, 30], 30) == [[0, 1], [2], [3], [4]]
    assert join_buckets([5, 20, 20, 20], 30) == [[0, 1], [2, 3]]
    assert join_buckets([7], 30) == [[0]]
    assert join_buckets([], 30) == []
