"""What one rank of 1,024 does in a step and in a save, counted without its peers.

The formulas are those of docs/performance.md, "A step and a save at any number of ranks".
"""

import math
from collections import Counter
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from model.config import ModelConfig
from model.heads import build_masked_lm
from model.parallel.grid import make_grid
from pipeline.engine import deepspeed_start
from pipeline.engine.deepspeed_engine import Engine
from pipeline.pretraining.step import pretraining_step
from pipeline.run import memory
from pipeline.run.config import TrainConfig
from pipeline.run.memory import BUCKET_VALUES, MAX_GATHERS, SCATTERED_VALUES
from pipeline.selfcheck import ACCUMULATION, random_batch
from tests.fake_ranks import Collectives, as_rank
from tests.pipeline.training_run import make_config

NUM_RANKS = 1024
VOCAB_SIZE = 256


def one_step_and_save(config: TrainConfig) -> dict[str, Any]:
    """The collectives of a step and of a save, and what the rank then holds."""
    grid = make_grid(config.parallel.tensor)
    model = build_masked_lm(config.model, VOCAB_SIZE, grid, config.seed, config.compute)
    parameters = [p.numel() for p in model.parameters()]
    engine = Engine(model, config, ACCUMULATION, grid)
    batch = random_batch(config, VOCAB_SIZE, 0)
    with Collectives() as step:
        pretraining_step(engine, batch, 1e-3)
    with Collectives() as save:
        fragments = engine.snapshot(check_replicas=False)
    return {
        "parameters": sum(parameters),
        "step": step.found,
        "most_tensors": step.most_tensors,
        "save": save.found,
        "held": {name: (one.start, one.length) for name, one in fragments.items()},
        "shapes": {name: spec.saved_shape(*grid.tp_shard) for name, spec in engine.specs.items()},
        "tokens": batch.tokens.shape[1] * batch.tokens.shape[2],
        "slots": batch.positions.shape[1] * batch.positions.shape[2],
    }


def config_of(tp_size: int, zero_stage: int) -> TrainConfig:
    """A network of two layers in bf16."""
    parallel = {"tensor": tp_size, "zero_stage": zero_stage}
    return make_config(Path("rows"), Path("run"), parallel=parallel, precision="bf16")


@pytest.fixture(scope="module", params=[(0, 4, 1), (7, 4, 1), (700, 4, 1), (1023, 1, 2)])
def counted(request: pytest.FixtureRequest) -> tuple[int, TrainConfig, dict[str, Any]]:
    """(rank, config, what it did)."""
    rank, tp_size, zero_stage = request.param
    config = config_of(tp_size, zero_stage)
    return rank, config, as_rank(one_step_and_save, rank, NUM_RANKS, config)


def test_the_collectives_of_a_step_do_not_depend_on_the_number_of_ranks(
    counted: tuple[int, TrainConfig, dict[str, Any]],
) -> None:
    _, config, found = counted
    tp_size, zero_stage = config.parallel.tensor, config.parallel.zero_stage
    layers, hidden = config.model.num_layers, config.model.hidden_size
    by_kind = Counter((name, dtype) for name, dtype, _ in found["step"])
    buckets = math.ceil(found["parameters"] / BUCKET_VALUES)
    # At ZeRO 1 two groups once a step; each rank gets few values of this small network.
    reductions = 2 if zero_stage == 1 else buckets * ACCUMULATION
    # bf16: sums of tensor-parallel layers, of the embedding and of the head's input.
    in_model = ACCUMULATION * (4 * layers + 2) if tp_size > 1 else 0
    assert by_kind["allreduce", torch.bfloat16] == in_model
    assert by_kind["allgather", torch.float32] == (ACCUMULATION if tp_size > 1 else 0)
    gradients = [
        size
        for name, dtype, size in found["step"]
        if (name, dtype) == ("allreduce", torch.float32) and size > 1
    ]
    assert len(gradients) == reductions  # fp32, whatever the precision
    padding = 8 * NUM_RANKS  # DeepSpeed aligns each group
    in_a_step = sum(gradients) / (1 if zero_stage == 1 else reductions)
    assert found["parameters"] <= in_a_step <= found["parameters"] + padding
    weights = [size for _, dtype, size in found["step"] if dtype is torch.bfloat16]
    of_tokens, of_slots = (
        sum(size == found[name] * hidden for size in weights) for name in ("tokens", "slots")
    )
    # Of the last layer's four sums, three are of label slots, as is that of the head's input.
    assert of_slots == (4 * ACCUMULATION if tp_size > 1 else 0)
    assert of_tokens == in_model - of_slots
    # New weights: two parameter groups, at ZeRO 1 of a small network at once.
    together = by_kind["allgather_into_tensor_coalesced", torch.bfloat16]
    assert (together, by_kind["allgather_base", torch.bfloat16]) == (
        (1, 0) if zero_stage == 1 else (0, 2)
    )
    assert by_kind["allreduce", torch.float64] == 1  # label counts
    # What ranks report. At ZeRO 1 the norm of the gradient is among it.
    assert by_kind["allgather_base", torch.float64] == 1
    scalars = [size for name, _, size in found["step"] if name == "allreduce" and size == 1]
    assert len(scalars) == 1 if zero_stage == 1 else len(scalars) > 1
    assert found["most_tensors"] <= max(tp_size + 1, 2 * 2)  # no list of a thousand tensors


def reductions(config: TrainConfig, vocab_size: int) -> dict[str, Any]:
    """Parameters, the fp32 collectives of a step, and the values of each group of a rank."""
    grid = make_grid(config.parallel.tensor)
    model = build_masked_lm(config.model, vocab_size, grid, config.seed, config.compute)
    engine = Engine(model, config, ACCUMULATION, grid)
    with Collectives() as step:
        pretraining_step(engine, random_batch(config, VOCAB_SIZE, 0), 1e-3)
    found = [(name, size) for name, dtype, size in step.found if dtype is torch.float32]
    return {"sizes": [p.numel() for p in model.parameters()], "found": found}


def test_many_gradients_of_a_rank_are_reduced_by_a_reduce_scatter() -> None:
    """Those of matrices at once, each value sent once; those of biases and norms are few."""
    vocab_size = 70_000
    found = as_rank(reductions, 5, 8, config_of(1, 1), vocab_size)
    (scattered,) = (size for name, size in found["found"] if name == "reduce_scatter_base")
    (reduced,) = (size for name, size in found["found"] if name == "allreduce")
    assert scattered + reduced == pytest.approx(sum(found["sizes"]), abs=8 * 8)
    assert scattered // 8 >= SCATTERED_VALUES > reduced // 8


BUCKET_VALUES_OF_SMALL_NETWORK = 2_000


def gathers(config: TrainConfig) -> dict[str, Any]:
    """The bf16 collectives of a step, and the buckets of a small network."""
    size = mock.patch.object(
        deepspeed_start, "values_per_bucket", return_value=BUCKET_VALUES_OF_SMALL_NETWORK
    )
    least = mock.patch.object(memory, "OVERLAPPED_VALUES", BUCKET_VALUES_OF_SMALL_NETWORK)
    with size, least:
        grid = make_grid(config.parallel.tensor)
        model = build_masked_lm(config.model, VOCAB_SIZE, grid, config.seed, config.compute)
        engine = Engine(model, config, ACCUMULATION, grid)
        with Collectives() as step:
            pretraining_step(engine, random_batch(config, VOCAB_SIZE, 0), 1e-3)
    names = [name for name, dtype, _ in step.found if dtype is torch.bfloat16]
    return {"buckets": len(engine._zero.param_groups), "names": names}


@pytest.mark.parametrize("rank", [0, 100])
def test_new_weights_are_gathered_in_few_collectives(rank: int) -> None:
    """However many buckets there are."""
    layers = {"num_layers": 24, "hidden_size": 32, "num_attention_heads": 4, "max_row_tokens": 32}
    config = config_of(1, 1).model_copy(update={"model": ModelConfig.model_validate(layers)})
    found = as_rank(gathers, rank, 128, config)
    assert set(found["names"]) == {"allgather_into_tensor_coalesced"}
    assert 10 < len(found["names"]) <= MAX_GATHERS < found["buckets"]


def test_a_save_has_no_collective_and_a_rank_saves_its_share(
    counted: tuple[int, TrainConfig, dict[str, Any]],
) -> None:
    rank, config, found = counted
    assert found["save"] == []
    dp_size = NUM_RANKS // config.parallel.tensor
    held = sum(length for _, length in found["held"].values())
    groups = 2
    padding = groups * 4 * dp_size  # DeepSpeed aligns each group
    assert held <= math.ceil((found["parameters"] + padding) / dp_size), rank
    for name, (start, length) in found["held"].items():
        assert 0 <= start < start + length <= math.prod(found["shapes"][name]), name


def held_ranges(config: TrainConfig) -> dict[str, tuple[int, int, int]]:
    """By parameter: (first element, elements, elements of the whole) of what this rank holds."""
    grid = make_grid(config.parallel.tensor)
    model = build_masked_lm(config.model, VOCAB_SIZE, grid, config.seed, config.compute)
    engine = Engine(model, config, ACCUMULATION, grid)
    return {
        name: (one.start, one.length, math.prod(engine.specs[name].full_shape))
        for name, one in engine.snapshot(check_replicas=False).items()
    }


@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_the_fragments_of_all_ranks_are_every_parameter_once(zero_stage: int) -> None:
    config, world_size = config_of(1, zero_stage), 5  # divides none of the sizes
    ranges = [as_rank(held_ranges, rank, world_size, config) for rank in range(world_size)]
    for name, (_, whole, _) in as_rank(held_ranges, 0, 1, config).items():
        end = 0
        for start, length, size in sorted(found[name] for found in ranges if name in found):
            assert (start, size) == (end, whole), name
            end += length
        assert end == whole, name


def frozen_fragments(config: TrainConfig, vocab_size: int) -> list[int]:
    """The elements of each fragment, with frozen word vectors and a head on them."""
    grid = make_grid(config.parallel.tensor)
    model = build_masked_lm(config.model, vocab_size, grid, config.seed, config.compute)
    model.encoder.embeddings.word.weight.requires_grad_(False)
    fragments = Engine(model, config, ACCUMULATION, grid).snapshot(check_replicas=False)
    return [fragment.length for fragment in fragments.values()]


def test_a_rank_of_vocabulary_padding_saves_nothing_of_a_frozen_vocabulary() -> None:
    config = config_of(2, 1)
    for rank in range(2):  # 25 ids of 128: the second rank has none
        assert min(as_rank(frozen_fragments, rank, 2, config, 25)) > 0
