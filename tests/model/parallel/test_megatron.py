"""The patch of megatron-core is still needed; the facts of a grid of one rank."""

import importlib
import inspect

import pytest
import torch

from model.parallel.grid import close_grid, make_grid
from tests.gloo import in_one_rank

CUDA_ONLY = "torch.cuda.current_device()"
MODULES = ("tensor_parallel.layers", "tensor_parallel.mappings", "utils")


@pytest.mark.parametrize("name", MODULES)
def test_megatron_still_allocates_on_cuda_only(name: str) -> None:
    source = inspect.getsource(importlib.import_module(f"megatron.core.{name}"))
    assert CUDA_ONLY in source, f"megatron.core.{name} needs no patch any more: see grid.py"


@pytest.mark.skipif(torch.cuda.is_available(), reason="the patch is for machines without CUDA")
@in_one_rank
def test_a_grid_makes_that_work_without_cuda() -> None:
    make_grid(1)
    assert torch.empty(1, device=torch.cuda.current_device()).device.type == "cpu"
    close_grid()


@in_one_rank
def test_sequence_parallelism_takes_two_ranks() -> None:
    grid = make_grid(1)
    for wanted in (True, False):
        same = grid.with_sequence_parallel(wanted)
        assert (same.sequence_parallel, same.token_shard) == (False, (0, 1))
        assert same.local_size(6) == 6
    close_grid()
