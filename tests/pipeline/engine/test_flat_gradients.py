"""ZeRO 1 on flat gradients: sums, norm, clipping and skipped steps, against DeepSpeed's."""

import contextlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from model.heads import build_masked_lm
from model.parallel.grid import Grid, make_grid
from pipeline.data.loader import StepBatch
from pipeline.engine import deepspeed_compat
from pipeline.engine.deepspeed_engine import Engine
from pipeline.pretraining.step import pretraining_step
from pipeline.run.config import TrainConfig
from pipeline.selfcheck import ACCUMULATION, random_batch
from tests.gloo import run_ranks
from tests.pipeline.training_run import (
    SMALL_MODEL,
    assert_same_bits,
    final_state,
    make_config,
    make_rows,
    metrics,
    pretrain,
)

VOCAB_SIZE = 250
NUM_STEPS = 3


def config_of(tp_size: int = 1, **changes: Any) -> TrainConfig:
    """Two layers, in bf16 by default, without dropout, which would hide small differences."""
    compute = {"sequence_parallel": changes.pop("sequence_parallel", False)}
    return make_config(
        *(Path("rows"), Path("run")),
        model={
            **SMALL_MODEL,
            "hidden_size": 256,
        },  # enough for a reduce-scatter
        parallel={"tensor": tp_size},
        compute=compute,
        **{"precision": "bf16", **changes},
    )


def grid_of(config: TrainConfig) -> Grid:
    wanted = config.compute.sequence_parallel
    return make_grid(config.parallel.tensor).with_sequence_parallel(wanted)


def engine_of(config: TrainConfig, grid: Grid, deepspeeds: bool = False) -> Engine:
    """With DeepSpeed's own optimizer or with that of `pipeline.engine.flat_gradients`."""
    model = build_masked_lm(config.model, VOCAB_SIZE, grid, config.seed, config.compute)
    none = mock.patch.object(deepspeed_compat, "flat_gradients", contextlib.nullcontext)
    with none if deepspeeds else contextlib.nullcontext():
        engine = Engine(model, config, ACCUMULATION, grid, [config.optimizer])
    theirs = "BF16_Optimizer" if config.precision == "bf16" else "DeepSpeedZeroOptimizer"
    assert type(engine._zero).__name__ == (theirs if deepspeeds else "FlatGradientOptimizer")
    return engine


def batch_of(config: TrainConfig, grid: Grid, step: int) -> StepBatch:
    """Different rows on each data-parallel rank."""
    return random_batch(config, VOCAB_SIZE, 100 * step + grid.dp_rank)


def trained(
    config: TrainConfig, deepspeeds: bool, grid: Grid | None = None
) -> tuple[list[float], dict[str, Tensor]]:
    """(norm of each step, what this rank holds of the fp32 weights after the last)."""
    grid = grid or grid_of(config)
    engine = engine_of(config, grid, deepspeeds)
    engine._zero.clip_grad = config.gradient_clipping
    norms = []
    for step in range(NUM_STEPS):
        result = pretraining_step(engine, batch_of(config, grid, step), 1e-3)
        norms.append(result.gradient_norm)
    fragments = engine.snapshot(check_replicas=True)
    held = {name: one.tensors["weight"].clone() for name, one in fragments.items()}
    engine.close()
    return norms, held


@pytest.mark.parametrize(
    ("ranks", "changes"),
    [
        (1, {}),
        (2, {}),
        (3, {}),
        (2, {"tp_size": 2}),
        (4, {"tp_size": 2, "sequence_parallel": True}),
        (3, {"gradient_clipping": 0.01}),
        (2, {"optimizer": {"type": "lamb"}}),
        (3, {"precision": "fp32", "gradient_clipping": 0.01}),
        (4, {"tp_size": 2, "precision": "fp32"}),
        (3, {"precision": "fp16", "gradient_clipping": 0.01}),
        (4, {"tp_size": 2, "precision": "fp16"}),
        (2, {"optimizer": {"type": "lamb"}, "precision": "fp32"}),
    ],
    ids=str,
)
def test_steps_are_those_of_deepspeed(ranks: int, changes: dict[str, Any]) -> None:
    """But for rounding: three ranks are added in another order, and the norm has more digits. From
    the second step on weights in bf16 round to neighbours here and there."""
    config = config_of(**changes)
    expected = run_ranks(trained, ranks, config, True)
    found = run_ranks(trained, ranks, config, False)
    for (norms, weights), (same_norms, same_weights) in zip(found, expected, strict=True):
        assert norms[0] == pytest.approx(same_norms[0], rel=1e-5)
        assert norms == pytest.approx(same_norms, rel=1e-3)
        assert weights.keys() == same_weights.keys()
        for name in weights:
            difference = (weights[name] - same_weights[name]).abs()
            assert float(difference.mean()) < 2e-5, name  # a step changes weights by up to 1e-3


def unclipped(config: TrainConfig) -> bool:
    """Whether the weights are DeepSpeed's to the last bit where nothing is clipped."""
    grid = grid_of(config)
    ours, theirs = (trained(config, deepspeeds, grid)[1] for deepspeeds in (False, True))
    return all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
def test_without_clipping_the_bits_are_those_of_deepspeed(ranks: int, precision: str) -> None:
    config = config_of(gradient_clipping=0, precision=precision)
    assert run_ranks(unclipped, ranks, config) == [True] * ranks


def norm_and_reference(config: TrainConfig) -> tuple[float, float]:
    """(norm of a step, that of the mean gradient of all ranks in fp64)."""
    grid = grid_of(config)
    engine = engine_of(config, grid)
    zero = engine._zero
    reduce: Callable[..., None] = zero.reduce_gradients
    found: list[float] = []

    def compare_and_reduce(**arguments: Any) -> None:
        square = torch.zeros((), dtype=torch.float64)
        for group, sums in zip(zero.bf16_groups, zero.fp32_groups_gradients, strict=True):
            for parameter, values in zip(group, sums, strict=True):
                mean = values.double()
                dist.all_reduce(mean, group=grid.dp_group)
                mean /= grid.dp_size
                if grid.tp_rank == 0 or getattr(parameter, "tensor_model_parallel", False):
                    square += mean.square().sum()
        dist.all_reduce(square, group=grid.tp_group)
        found.append(math.sqrt(square))
        reduce(**arguments)

    zero.reduce_gradients = compare_and_reduce
    zero.start_last_micro_batch = lambda: None  # no sum over ranks starts before the comparison
    result = pretraining_step(engine, batch_of(config, grid, 0), 1e-3)
    return result.gradient_norm, found[0]


@pytest.mark.parametrize(("ranks", "tp_size"), [(1, 1), (3, 1), (2, 2), (4, 2)])
def test_the_norm_is_that_of_the_whole_gradient(ranks: int, tp_size: int) -> None:
    for norm, reference in run_ranks(norm_and_reference, ranks, config_of(tp_size)):
        assert norm == pytest.approx(reference, rel=1e-6)


def gradients_of_two_steps(config: TrainConfig) -> dict[str, list[Tensor]]:
    """What the optimizer is given of two parameters, which have gradients in the first step only,
    and whether bf16 gradients are left after a backward pass."""
    engine = engine_of(config, grid_of(config))
    zero, module = engine._zero, engine.module
    plain, decayed = range(2)  # the numbers of its groups
    given: dict[str, list[Tensor]] = {"bias": [], "weight": [], "left": []}
    step = zero.optimizer.step

    def noted() -> None:
        given["bias"].append(zero.fp32_groups_gradients[plain][0].clone())
        given["weight"].append(zero.fp32_groups_gradients[decayed][0].clone())
        step()

    zero.optimizer.step = noted
    bias, weight = zero.bf16_groups[plain][0], zero.bf16_groups[decayed][0]
    for with_bias in (True, False):
        engine.start_step(1e-3)
        for is_last in (False, True):
            engine.start_micro_batch(is_last)
            loss = weight.float().sum()
            engine.backward(loss + bias.float().sum() if with_bias else loss)
            left = [p for p in module.parameters() if p.grad is not None]
            given["left"].append(torch.tensor(len(left)))
        engine.finish_step([float(engine.norm_part())])
    return given


def test_a_gradient_of_the_step_before_is_not_used_again() -> None:
    """And micro-batches are summed: two of ones, clipped by nothing."""
    (given,) = run_ranks(gradients_of_two_steps, 1, config_of(gradient_clipping=0))
    assert [bool((bias == 2).all()) for bias in given["bias"]] == [True, False]
    assert not given["bias"][1].any()
    assert all(bool((weight == 2).all()) for weight in given["weight"])
    assert [int(left) for left in given["left"]] == [0] * 4


def sums_of_a_micro_batch(config: TrainConfig) -> list[bytes]:
    """Of gradients with zeros of both signs: written over their sums, and added to them."""
    engine = engine_of(config, grid_of(config))
    zero = engine._zero
    weight = zero.bf16_groups[0][0]
    factors = torch.tensor([-0.0, 0.0, 1.0, -1.0]).repeat(weight.numel() // 4).view_as(weight)
    found = []
    for adds in (False, True):
        engine.start_step(1e-3)
        if adds:
            zero.add_all_gradients()
        engine.start_micro_batch(is_last=False)
        engine.backward((weight.float() * factors).sum())
        found.append(zero.fp32_groups_gradients[0][0].numpy().tobytes())
    return found


def test_gradients_that_are_added_to_their_sums_keep_the_sign_of_zero() -> None:
    [[first, second]] = run_ranks(sums_of_a_micro_batch, 1, config_of())
    assert first == second
    assert set(np.frombuffer(first, np.int32)[:4]) == {-(2**31), 0, 0x3F800000, -0x40800000}


def after_a_step_that_is_not_finite(config: TrainConfig) -> tuple[bool, bool, bool]:
    """(skipped, weights unchanged, the step after it as if there had been none)."""
    grid = grid_of(config)
    batch = batch_of(config, grid, 0)
    expected = engine_of(config, grid)
    pretraining_step(expected, batch, 1e-3)
    engine = engine_of(config, grid)
    before = {name: one.tensors["weight"].clone() for name, one in engine.snapshot().items()}
    hook = engine._zero.bf16_groups[0][0].register_hook(lambda gradient: gradient * math.inf)
    result = pretraining_step(engine, batch, 1e-3)
    hook.remove()
    same = all(
        torch.equal(one.tensors["weight"], before[name]) for name, one in engine.snapshot().items()
    )
    pretraining_step(engine, batch, 1e-3)
    weights = expected.snapshot()
    as_without = all(
        torch.equal(one.tensors["weight"], weights[name].tensors["weight"])
        for name, one in engine.snapshot().items()
    )
    return result.skipped and not math.isfinite(result.gradient_norm), same, as_without


def test_resumed_is_bit_equal_on_data_parallel_ranks(tmp_path: Path) -> None:
    """Three ranks, whose sums are rounded; gradients are scattered and clipped."""
    make_rows(tmp_path / "rows")

    def config(name: str, num_steps: int) -> TrainConfig:
        return make_config(
            *(tmp_path / "rows", tmp_path / name),
            model={**SMALL_MODEL, "hidden_size": 256},
            precision="bf16",
            total_rows=num_steps * 12,
            batch={"global_rows": 12, "micro_rows": 2},
            schedule={"type": "constant"},
            gradient_clipping=0.5,
        )

    whole, resumed = config("whole", 9), config("resumed", 9)
    run_ranks(pretrain, 3, whole)
    run_ranks(pretrain, 3, config("resumed", 4))
    run_ranks(pretrain, 3, resumed)
    assert_same_bits(final_state(whole), final_state(resumed))
    for name in ("loss", "gradient_norm"):
        assert metrics(whole, name) == metrics(resumed, name)


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
def test_a_gradient_that_is_not_finite_changes_nothing(ranks: int, precision: str) -> None:
    config = config_of(precision=precision, loss_scale={"smallest": 2.0**16})  # so it stays
    found = run_ranks(after_a_step_that_is_not_finite, ranks, config)
    assert found == [(True, True, True)] * ranks
