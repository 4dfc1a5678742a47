"""A replicated parameter that changes by one bit on one rank is found, and named on all."""

from typing import Any

import torch
from torch import nn

from model.config import ModelConfig
from model.heads import build_masked_lm
from model.parallel.grid import make_grid
from model.parameters import ParameterSpec, declare
from model.replicas import checksum, differing_replicas
from tests.gloo import run_ranks
from tests.model.parallel.test_tensor_parallel import TINY, VOCAB_SIZE


def names_of_differing(damage: str) -> Any:
    grid = make_grid(2)
    model = build_masked_lm(ModelConfig(**TINY), VOCAB_SIZE, grid, seed=0).bfloat16()
    before = differing_replicas(model, grid)
    if damage and grid.tp_rank == 1:
        bits = dict(model.named_parameters())[damage].data.view(torch.int16)
        bits.view(-1)[5] ^= 1
    return before, differing_replicas(model, grid)


def test_one_bit_on_one_rank_is_named_on_all() -> None:
    for name in ("encoder.layers.1.mlp.down.bias", "encoder.embeddings.position.weight"):
        assert run_ranks(names_of_differing, 2, name) == [([], [name])] * 2


def test_sharded_parameters_may_differ() -> None:
    assert run_ranks(names_of_differing, 2, "encoder.layers.0.mlp.up.weight") == [([], [])] * 2


def names_under_zero_3(is_damaged: bool) -> list[str]:
    """Of three values on two data-parallel ranks, the second of which has room for one more."""
    grid, model = make_grid(2), nn.Module()
    scale: Any = nn.Parameter(torch.empty(0))
    declare(scale, ParameterSpec((3,), None))
    never_set = float(grid.rank)
    parts = ([1.0, 2.0], [4.0 if is_damaged and grid.tp_rank else 3.0, never_set])
    scale.ds_numel, scale.ds_tensor = 3, torch.tensor(parts[grid.dp_rank])
    model.scale = scale
    return differing_replicas(model, grid)


def test_what_fills_the_parts_of_zero_3_may_differ() -> None:
    assert run_ranks(names_under_zero_3, 4, False) == [[]] * 4
    assert run_ranks(names_under_zero_3, 4, True) == [[], [], ["scale"], ["scale"]]


def test_a_checksum_sees_swapped_and_moved_values() -> None:
    x = torch.tensor([1.0, 2.0, 3.0, 0.0])
    sums = {int(checksum(x[[i, j, 2, 3]])) for i, j in ((0, 1), (1, 0), (0, 0))}
    assert len(sums) == 3
    assert checksum(x) == checksum(x.clone())
